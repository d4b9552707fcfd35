//! What has parameters: U-Net, MLP, energies, checkpoints.
