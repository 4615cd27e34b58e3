//! What is wrong with bytes that are no request.

/// Why bytes from a client are refused before they are a request. Texts have no quote and no backslash, because Firecracker
/// puts them between quotes as they are, and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Not HTTP/1.1.
    #[error("Malformed request: {0}; send HTTP/1.1.")]
    Syntax(httparse::Error),
    /// A method that the API doesn't have.
    #[error("Unsupported HTTP method; use GET, PUT, PATCH or DELETE.")]
    Method,
    /// A request line or a header that doesn't fit.
    #[error("Request line or header longer than {limit} bytes; shorten it.")]
    LineTooLong {
        /// Most bytes.
        limit: usize,
    },
    /// A head that doesn't fit.
    #[error("Request line and headers longer than {limit} bytes together; send fewer headers.")]
    HeadTooLong {
        /// Most bytes.
        limit: usize,
    },
    /// More headers than any client sends.
    #[error("More than {limit} headers; send fewer.")]
    TooManyHeaders {
        /// Most headers.
        limit: usize,
    },
    /// A length that is no number below 2^32, or two of them.
    #[error("Invalid Content-Length header; send one decimal number below 4294967296.")]
    ContentLength,
    /// A body without a length.
    #[error("Unsupported Transfer-Encoding header; send the body with a Content-Length header.")]
    TransferEncoding,
    /// A client that doesn't take what we have.
    #[error("Invalid Accept-Encoding header: answers are sent as identity only; accept that.")]
    AcceptEncoding,
    /// A body above the limit. Clients compare this text.
    #[error("Request payload with size {size} is larger than the limit of {limit} allowed by server.")]
    PayloadTooLarge {
        /// The body's length.
        size: u32,
        /// Most bytes.
        limit: usize,
    },
}
