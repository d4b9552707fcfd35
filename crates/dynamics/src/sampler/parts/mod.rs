//! What samplers are made of: the numbers of a step, multistep rules, reports of MCMC, and runs that follow each other.

pub(crate) mod multistep;
pub(super) mod replicas;
pub(super) mod report;
pub(crate) mod transfer;
