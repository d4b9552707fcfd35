//! Datasets as indexed batches of tensors: digits, MNIST, CIFAR-10, image folders, CSV tables, 2-D toys.
