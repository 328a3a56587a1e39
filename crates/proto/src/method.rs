//! The methods of `consent.v1`, from its descriptors.

use prost::DecodeError;
pub use prost_types::method_options::IdempotencyLevel;

/// A method of `consent.v1`.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// `/package.Service/Method`, as a request names it.
    pub path: &'static str,
    /// Whether the request is a stream.
    pub client_streaming: bool,
    /// Whether the answer is a stream.
    pub server_streaming: bool,
    /// The effect of a repeated request.
    pub idempotency: IdempotencyLevel,
    /// Reads the idempotency key from an encoded request, if only a key makes the method
    /// repeatable.
    pub idempotency_key: Option<fn(&[u8]) -> Result<String, DecodeError>>,
}

impl Method {
    /// The method that a request's path names.
    #[must_use]
    pub fn of_path(path: &str) -> Option<&'static Self> {
        let position = METHODS.binary_search_by(|method| method.path.cmp(path)).ok()?;
        METHODS.get(position)
    }

    /// Whether the request or the answer is a stream.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.client_streaming || self.server_streaming
    }
}

use super::*;

include!("generated/methods.rs");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may fail where it stands

    use super::*;

    #[test]
    fn every_method_is_found_by_its_path_and_no_other() {
        for method in METHODS {
            assert_eq!(Method::of_path(method.path).unwrap().path, method.path);
        }
        for path in ["", "/", "/consent.v1.CheckService/check", "consent.v1.CheckService/Check"] {
            assert!(Method::of_path(path).is_none(), "{path:?}");
        }
    }

    #[test]
    fn a_key_is_read_where_it_makes_a_request_repeatable() {
        let keyed = |name: &str| Method::of_path(name).unwrap().idempotency_key;
        let request = RecordUseRequest { idempotency_key: "k-1".to_owned(), ..Default::default() };
        let read = keyed("/consent.v1.ConsentService/RecordUse").unwrap();
        assert_eq!(read(&prost::Message::encode_to_vec(&request)).unwrap(), "k-1");
        assert!(keyed("/consent.v1.AuditService/GetReceipt").is_none(), "a question needs no key");
        assert!(keyed("/consent.v1.PrivacyService/LinkSubjects").is_none());
    }
}
