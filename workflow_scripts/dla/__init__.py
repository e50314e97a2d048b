"""The part of a network that a deep learning accelerator (DLA) runs, and the subgraphs that it runs it in."""
