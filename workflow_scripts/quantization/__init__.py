"""INT8 quantization of the folded network: histograms, ranges, scaling, bias correction, and the backends."""
