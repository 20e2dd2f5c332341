//! Which device.
