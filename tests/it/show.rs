//! The curve and the card of a run.

mod card;
mod curve;
