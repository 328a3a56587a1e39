//! A worker with a scripted source and a real endpoint.
