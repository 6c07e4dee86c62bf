//! The offpath collector.
