//! Bounds on what is read, so that a hostile file ends with an error.

/// Most bytes of a file.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Most files, counting each inclusion.
pub const MAX_FILES: usize = 256;
/// Most files within each other.
pub const MAX_INCLUDE_DEPTH: usize = 16;
/// Most bytes of a word or string.
pub const MAX_TOKEN_BYTES: usize = 8094;
/// Most tokens of all files.
pub const MAX_TOKENS: usize = 1 << 17;
/// Most bytes that macros expand to, altogether.
pub const MAX_EXPANDED_BYTES: usize = 4 << 20;
/// Most messages that are shown.
pub const MAX_SHOWN: usize = 50;
/// Most errors before a file is given up.
pub const MAX_ERRORS: usize = 1000;
/// Most bytes of the lines that are shown with a message.
pub const MAX_EXCERPT_BYTES: usize = 4096;
