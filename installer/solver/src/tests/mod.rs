//! Tests of the solver: rules in a small language, random problems against brute force, and a
//! real channel.

mod brute_force;
mod language;
mod real_channel;
mod rules;
