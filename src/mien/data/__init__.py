"""Face sets in their own formats, their splits, and the ways in which a picture gets worse.

`mien.data.sets` reads, `mien.data.degrade` spoils. Neither downloads anything.
"""
