//! E-mail addresses: their form, and how they are compared.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use url::Host;

/// The longest address, and the longest part before the `@`, in bytes (RFC 5321).
const MAX_ADDRESS: usize = 254;
const MAX_LOCAL: usize = 64;

/// One address such as `ada@example.com`, with its domain in ASCII. It is personal: `Debug` does not
/// show it.
#[derive(Clone, PartialEq, Eq)]
pub struct MailAddress(String);

/// Why a text is not an address that we send mail to. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an e-mail address such as ada@example.com")]
pub struct InvalidAddress;

impl FromStr for MailAddress {
    type Err = InvalidAddress;

    /// Accepts the form that people use: letters, digits and `.!#$%&'*+/=?^_{|}~-` and the backtick
    /// before the `@`, and a domain with a dot, also an international one. Quoted names,
    /// addresses of computers and lists of addresses are refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local, domain) = text.split_once('@').ok_or(InvalidAddress)?;
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
        let is_local = (1..=MAX_LOCAL).contains(&local.len())
            && local.bytes().all(is_allowed)
            && local.split('.').all(|part| !part.is_empty());
        // The URL parser would decode percent signs.
        let is_plain = |char: char| char.is_alphanumeric() || matches!(char, '.' | '-');
        if !is_local || !domain.chars().all(is_plain) {
            return Err(InvalidAddress);
        }
        let Ok(Host::Domain(domain)) = Host::parse(domain) else {
            return Err(InvalidAddress);
        };
        let labels: Vec<&str> = domain.split('.').collect();
        let is_label = |label: &&str| {
            (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        let address = format!("{local}@{domain}");
        if labels.len() < 2 || !labels.iter().all(is_label) || address.len() > MAX_ADDRESS {
            return Err(InvalidAddress);
        }
        Ok(Self(address))
    }
}

impl MailAddress {
    /// The address itself, for the mail and the database.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What two spellings of one mailbox have in common: the SHA-256 of the address in lower case.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.0.to_ascii_lowercase()).into()
    }
}

impl fmt::Debug for MailAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MailAddress([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MailAddress, InvalidAddress> {
        text.parse()
    }

    #[test]
    fn an_address_gets_its_normal_form() {
        for (text, expected) in [
            ("ada@example.com", "ada@example.com"),
            ("Ada.L+x@Example.COM", "Ada.L+x@example.com"),
            ("o'neil@example.co.uk", "o'neil@example.co.uk"),
            ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ] {
            assert_eq!(parse(text).unwrap().expose(), expected);
        }
        let one = parse("Ada@example.com").unwrap();
        let other = parse("ada@EXAMPLE.com").unwrap();
        assert_eq!(one.fingerprint(), other.fingerprint());
        assert!(!format!("{one:?}").contains("example"));
    }

    #[test]
    fn what_is_not_one_address_is_refused() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long = format!("a@{}com", "abcdefgh.".repeat(30));
        for text in [
            "",
            "@",
            "ada",
            "ada@",
            "@example.com",
            "ada@example",
            "ada@@example.com",
            "a@b@example.com",
            ".ada@example.com",
            "ada.@example.com",
            "a..b@example.com",
            "ada@example.com ",
            " ada@example.com",
            "ada@example.com\r\nBcc: x@example.com",
            "ada@example.com,x@example.com",
            "ada@example.com;x@example.com",
            "<ada@example.com>",
            "Ada <ada@example.com>",
            "\"ada\"@example.com",
            "ada(x)@example.com",
            "ada@[127.0.0.1]",
            "ada@127.0.0.1",
            "ada@2130706433",
            "ada@ex ample.com",
            "ada@exam%70le.com",
            "ada@example..com",
            "ada@-example.com",
            "ada@example.com.",
            "ädä@example.com",
            "ada\0@example.com",
            &long_local,
            &long,
        ] {
            assert_eq!(parse(text), Err(InvalidAddress), "{text:?}");
        }
    }
}
