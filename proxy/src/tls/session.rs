//! One end of a TLS connection without I/O: bytes of the socket in, plaintext out, and the other way round.
//!
//! rustls' unbuffered connections, since its buffered ones read 4 KiB at once and keep as much of every idle connection.

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

/// What the longest record adds to its plaintext (RFC 8446 section 5.2): a header, the inner type, and the tag.
pub(super) const OVERHEAD: usize = 5 + 1 + 16;

/// Either end.
pub(super) enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What became of some bytes of the socket.
pub(super) struct Digested {
    /// So many of them are done with.
    pub(super) used: usize,
    /// The peer has said that nothing follows (RFC 8446 section 6.1).
    pub(super) closed: bool,
}

impl Session {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        UnbufferedClientConnection::new(config, name).map(Self::Client)
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        UnbufferedServerConnection::new(config).map(Self::Server)
    }

    pub(super) fn state(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    /// Takes in what the socket had, beginning with what the last call left. What is to be sent is added to `out`.
    pub(super) fn digest(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        plain: impl FnMut(&[u8]),
    ) -> io::Result<Digested> {
        match self {
            Self::Client(client) => digest(client, bytes, out, plain),
            Self::Server(server) => digest(server, bytes, out, plain),
        }
    }

    /// Makes records of `plain` in `out`, which has room for them. `left` is what [`Self::digest`] has left.
    pub(super) fn encrypt(
        &mut self,
        left: &mut [u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> io::Result<usize> {
        match self {
            Self::Client(client) => write(client, left, Some(plain), out),
            Self::Server(server) => write(server, left, Some(plain), out),
        }
    }

    /// Says that nothing follows.
    pub(super) fn close(&mut self, left: &mut [u8], out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Client(client) => write(client, left, None, out),
            Self::Server(server) => write(server, left, None, out),
        }
    }
}

/// rustls gives the same to either end by two functions.
trait Records {
    type Data;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

fn digest<C: Records>(
    session: &mut C,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
    mut plain: impl FnMut(&[u8]),
) -> io::Result<Digested> {
    let (mut used, mut closed) = (0, false);
    loop {
        let UnbufferedStatus { discard, state } = session.process(&mut bytes[used..]);
        let goes_on = match state {
            Ok(ConnectionState::ReadTraffic(mut records)) => {
                while let Some(record) = records.next_record() {
                    plain(record.map_err(io::Error::other)?.payload);
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, out)?;
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                closed = true;
                true
            }
            Ok(_) => false,
            Err(error) => {
                alert(session, &mut bytes[used + discard..], out);
                return Err(io::Error::other(error));
            }
        };
        used += discard;
        if !goes_on {
            return Ok(Digested { used, closed });
        }
    }
}

/// What a session that has failed would still tell its peer. It is shown what is left, of which it remembers places.
fn alert<C: Records>(session: &mut C, left: &mut [u8], out: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = session.process(left).state {
        // Whoever is not told is closed all the same.
        let _ = encode(&mut data, out);
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    match data.encode(&mut []) {
        Ok(_) => Ok(()),
        Err(EncodeError::InsufficientSize(needed)) => {
            out.resize(start + needed.required_size, 0);
            let encoded = data.encode(&mut out[start..]);
            encoded.map(drop).map_err(io::Error::other)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Records of `plain`, or without it the last one.
fn write<C: Records>(
    session: &mut C,
    left: &mut [u8],
    plain: Option<&[u8]>,
    out: &mut [u8],
) -> io::Result<usize> {
    let mut written = 0;
    loop {
        match session.process(left).state.map_err(io::Error::other)? {
            ConnectionState::WriteTraffic(mut records) => {
                let out = &mut out[written..];
                let more = match plain {
                    Some(plain) => records.encrypt(plain, out),
                    None => records.queue_close_notify(out),
                };
                return Ok(written + more.map_err(io::Error::other)?);
            }
            ConnectionState::EncodeTlsData(mut data) => {
                written += data.encode(&mut out[written..]).map_err(io::Error::other)?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            state => {
                let why = format!("nothing can be sent: {state:?}");
                return Err(io::Error::other(why));
            }
        }
    }
}

#[cfg(test)]
mod tests;
