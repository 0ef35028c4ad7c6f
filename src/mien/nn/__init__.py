"""Network bricks and the project's own networks: plain ``nn.Module`` code, float tensors in, float tensors out."""
