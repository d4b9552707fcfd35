//! Losses, noise levels, optimisers, EMA, the training loop and its resumable state.
