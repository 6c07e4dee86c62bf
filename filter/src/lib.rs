//! The offpath plugin.
