"""Photos, folders and video, in and out: RGB at the door.

load_image(source)          one picture of any kind as (H, W, 3) uint8 RGB
image_size(source)          its width and height, without decoding
save_image(path, image)     and out again
expand_sources(sources)     folders and patterns to single files
read_images(sources)        many pictures and videos in order, decoded ahead; broken ones as `Failure`
open_video, write_video     frames with time stamps
annotate, contact_sheet     pictures of results
parsing_mask                the parts of a face, in the pixels of its picture
"""

from __future__ import annotations

from mien.media.draw import annotate, contact_sheet
from mien.media.folders import Photo, expand_sources, read_images
from mien.media.images import MAX_PIXELS, Image, Source, image_size, load_image, save_image
from mien.media.masks import parsing_mask
from mien.media.video import Video, open_video, write_video

__all__ = [
    "MAX_PIXELS",
    "Image",
    "Photo",
    "Source",
    "Video",
    "annotate",
    "contact_sheet",
    "expand_sources",
    "image_size",
    "load_image",
    "open_video",
    "parsing_mask",
    "read_images",
    "save_image",
    "write_video",
]
