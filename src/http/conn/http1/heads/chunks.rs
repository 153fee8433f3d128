//! Owns the parsing of a chunked body, strictly by RFC 9112 7.1. It must not know its content.

/// The position of the next byte.
#[derive(Debug, Default)]
pub(super) enum Chunks {
    /// In the line with a chunk's size, with its value so far.
    #[default]
    Size,
    More(u64),
    /// After the size, in the extensions.
    Rest(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer or of the final empty line.
    Trailer,
    InTrailer,
    TrailerLf,
    EndLf,
}

impl Chunks {
    /// Parses bytes. Returns how many belong to the body, and at its end whether it was valid.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> (usize, Option<bool>) {
        let mut at = 0;
        while at < bytes.len() {
            if let Self::Data(left) = self {
                let taken = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    *self = Self::DataCr;
                }
                continue;
            }
            at += 1;
            match self.next(bytes[at - 1]) {
                Some(Self::Size) if matches!(self, Self::EndLf) => return (at, Some(true)),
                Some(next) => *self = next,
                None => return (at, Some(false)),
            }
        }
        (at, None)
    }

    fn next(&self, byte: u8) -> Option<Self> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self, byte) {
            (Self::Size, _) => Self::More(digit?),
            (Self::More(size) | Self::Rest(size), b'\r') => Self::SizeLf(*size),
            (Self::More(size), b';' | b' ' | b'\t') => Self::Rest(*size),
            (Self::More(size), _) => Self::More(size.checked_mul(16)?.checked_add(digit?)?),
            (Self::Rest(_), b'\n') => return None,
            (Self::Rest(size), _) => Self::Rest(*size),
            (Self::SizeLf(0), b'\n') => Self::Trailer,
            (Self::SizeLf(size), b'\n') => Self::Data(*size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size,
            (Self::Trailer, b'\r') => Self::EndLf,
            (Self::InTrailer, b'\r') => Self::TrailerLf,
            (Self::Trailer | Self::InTrailer, b'\n') => return None,
            (Self::Trailer | Self::InTrailer, _) => Self::InTrailer,
            (Self::TrailerLf, b'\n') => Self::Trailer,
            // The end.
            (Self::EndLf, b'\n') => Self::Size,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_says() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "00A;x=\"y\"\r\n0123456789\r\n0 ;\r\nX: y\r\nZ: \r\n\r\n",
        ] {
            for size in 1..=body.len() {
                let (mut chunks, mut end) = (Chunks::default(), None);
                for piece in body.as_bytes().chunks(size) {
                    assert_eq!(end, None, "{body:?}");
                    let (taken, found) = chunks.pass(piece);
                    assert_eq!(taken, piece.len(), "{body:?}");
                    end = found;
                }
                assert_eq!(end, Some(true), "{body:?} in pieces of {size}");
            }
            let behind = format!("{body}GET");
            assert_eq!(Chunks::default().pass(behind.as_bytes()), (body.len(), Some(true)));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_given_up() {
        for body in [
            "",
            "\r\n",
            "x\r\n",
            "0x5\r\n",
            "+5\r\n",
            "5\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n0",
            "5;a\nb\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\nX: y\n\r\n",
            "0\r\n\rX",
            "10000000000000000\r\n",
            "5 5\n",
        ] {
            let end = Chunks::default().pass(body.as_bytes()).1;
            assert_eq!(end, (!body.is_empty()).then_some(false), "{body:?}");
        }
    }
}
