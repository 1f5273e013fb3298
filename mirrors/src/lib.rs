//! Which mirror, when, how much: mirror lists, health, ranking. Pure.
