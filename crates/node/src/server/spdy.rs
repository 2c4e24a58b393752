//! SPDY/3.1 as the kubelet's streaming clients speak it: frames, header compression and a server connection.
//!
//! Only what `kubectl` and client-go use: streams opened by the client, data both ways, half close, reset, ping and
//! go-away. Flow-control windows are not kept, because client-go's implementation neither sends nor honours
//! WINDOW_UPDATE; back-pressure comes from the bounded channels of [`connection`] and the transport below.

pub(crate) mod connection;
mod frame;
mod headers;

pub(crate) use connection::{Connection, StreamReader, StreamWriter};
pub(crate) use frame::{Frame, FrameCodec, SpdyError};
