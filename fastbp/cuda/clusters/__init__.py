"""MNIST-like networks: an epoch in one launch on a cluster of blocks, weights in shared memory."""
