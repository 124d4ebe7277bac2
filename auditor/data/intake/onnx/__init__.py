"""A file of an ONNX network becomes one of ours: read as data, checked, folded and written as a graph of PyTorch's layers."""
