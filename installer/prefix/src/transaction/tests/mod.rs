//! Whole transactions on small packages built by hand.

mod clobber;
mod failures;
mod kill;
mod linking;
mod links;
mod noarch_python;
mod plans;
mod scripts;
mod support;
