"""What a deep learning accelerator takes of a network, and in which pieces."""
