//! Integration tests, one module per subject.

/// The drawn parameters and the patches against the distributions of the published code.
mod distributions;
/// Other forms of official records, made of them.
mod forms;
/// Made-up sets with the official counts.
mod full_counts;
/// The operations against what torchvision and Pillow computed.
mod golden;
/// The memory of a loader in a process of its own.
mod memory;
/// Genuine images in every form they come in.
mod real_data;
/// Genuine image trees by name.
mod real_trees;
