//! Whether what is delivered comes from whoever has the secret: over the bytes as they came, before
//! anything of them is read.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use kernel::trigger::Source;
use kernel::values::Timestamp;
use subtle::ConstantTimeEq as _;

use crate::limits;

/// Why a delivery is not believed. For the server's own log: whoever sent it learns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unbelieved {
    #[error("a header of the signature is missing, or is there twice")]
    Header,
    #[error("the signature does not read")]
    Form,
    #[error("the time of the signature does not read")]
    Time,
    #[error("the time of the signature is too far off")]
    Stale,
    #[error("the signature is not of this body by this secret")]
    Signature,
    #[error("a schedule takes no deliveries")]
    Source,
}

/// Checks the signature of a delivery. Whatever is wrong, that takes one code over the body.
pub(super) fn verify(
    source: Source,
    secret: &[u8],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unbelieved> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let checked = check(source, &key, headers, body, now);
    if let Err(Unbelieved::Header | Unbelieved::Form | Unbelieved::Source) = checked {
        let _takes_as_long = same(&key, &[body], [0; 32]);
    }
    checked
}

fn check(
    source: Source,
    key: &hmac::Key,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unbelieved> {
    match source {
        Source::Github => {
            let signature = one(headers, "x-hub-signature-256")?;
            let given = signature.strip_prefix("sha256=").and_then(from_hex);
            same(key, &[body], given.ok_or(Unbelieved::Form)?)
        }
        Source::Slack => {
            let time = one(headers, "x-slack-request-timestamp")?;
            let signature = one(headers, "x-slack-signature")?;
            let given = signature.strip_prefix("v0=").and_then(from_hex);
            let text: [&[u8]; 4] = [b"v0:", time.as_bytes(), b":", body];
            same(key, &text, given.ok_or(Unbelieved::Form)?)?;
            fresh(time, now)
        }
        Source::Servicenow => {
            let time = one(headers, "x-tally-timestamp")?;
            let signature = one(headers, "x-tally-signature")?;
            let text: [&[u8]; 3] = [time.as_bytes(), b".", body];
            let given = signature.strip_prefix("sha256=").unwrap_or(signature);
            // Hex, or base64 as ServiceNow's own scripts make it.
            let given = from_hex(given).or_else(|| STANDARD.decode(given).ok()?.try_into().ok());
            same(key, &text, given.ok_or(Unbelieved::Form)?)?;
            fresh(time, now)
        }
        Source::Schedule => Err(Unbelieved::Source),
    }
}

/// The one value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unbelieved> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Unbelieved::Header),
        _ => Err(Unbelieved::Header),
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Whether the parts have this authentication code. It takes as long for every code.
fn same(key: &hmac::Key, parts: &[&[u8]], given: [u8; 32]) -> Result<(), Unbelieved> {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    match bool::from(context.sign().as_ref().ct_eq(&given)) {
        true => Ok(()),
        false => Err(Unbelieved::Signature),
    }
}

/// Whether `time`, in seconds since 1970, is about now.
fn fresh(time: &str, now: Timestamp) -> Result<(), Unbelieved> {
    let plain = !time.is_empty() && time.len() <= 12 && time.bytes().all(|b| b.is_ascii_digit());
    let seconds: i64 = time.parse().ok().filter(|_| plain).ok_or(Unbelieved::Time)?;
    let now = now.0.div_euclid(1_000_000);
    match now.abs_diff(seconds) <= limits::HOOK_WINDOW_S.unsigned_abs() {
        true => Ok(()),
        false => Err(Unbelieved::Stale),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const SECRET: &[u8] = b"it is a secret";
    const NOW: i64 = 1_793_491_200;

    fn code(parts: &[&[u8]]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        hmac::sign(&key, &parts.concat()).as_ref().to_vec()
    }

    fn believed(
        source: Source,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<(), Unbelieved> {
        let pairs = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        verify(source, SECRET, &map, body, Timestamp(NOW * 1_000_000))
    }

    #[test]
    fn github() {
        let good = format!("sha256={}", hex::encode(code(&[b"{}"])));
        let header = |value: &str| vec![("x-hub-signature-256", value.to_owned())];
        let github = |headers: &[_], body: &[u8]| believed(Source::Github, headers, body);
        assert_eq!(github(&header(&good), b"{}"), Ok(()));
        assert_eq!(github(&header(&good), b"{ }"), Err(Unbelieved::Signature));
        assert_eq!(github(&[], b"{}"), Err(Unbelieved::Header));
        let twice = [header(&good), header(&good)].concat();
        assert_eq!(github(&twice, b"{}"), Err(Unbelieved::Header));
        for form in
            ["", "sha256=", "sha1=00", good.trim_start_matches("sha256="), good.get(..70).unwrap()]
        {
            assert_eq!(github(&header(form), b"{}"), Err(Unbelieved::Form), "{form}");
        }
        let other = format!("sha256={}", "0".repeat(64));
        assert_eq!(github(&header(&other), b"{}"), Err(Unbelieved::Signature));
    }

    #[test]
    fn signed_times() {
        let slack = |time: String| {
            let signed = code(&[b"v0:", time.as_bytes(), b":", b"payload=x"]);
            let signature = format!("v0={}", hex::encode(signed));
            let headers = [("x-slack-request-timestamp", time), ("x-slack-signature", signature)];
            believed(Source::Slack, &headers, b"payload=x")
        };
        let servicenow = |time: String| {
            let signed = code(&[time.as_bytes(), b".", b"{}"]);
            let hex = hex::encode(&signed);
            let forms = [hex.clone(), format!("sha256={hex}"), STANDARD.encode(signed)];
            let checked = forms.map(|form| {
                let headers = [("x-tally-timestamp", time.clone()), ("x-tally-signature", form)];
                believed(Source::Servicenow, &headers, b"{}")
            });
            assert!(checked.iter().all(|one| *one == checked[0]), "{checked:?}");
            checked[0]
        };
        for offset in [-300, 0, 300] {
            assert_eq!(slack((NOW + offset).to_string()), Ok(()), "{offset}");
            assert_eq!(servicenow((NOW + offset).to_string()), Ok(()), "{offset}");
        }
        for offset in [-301, 301, -86_400] {
            assert_eq!(slack((NOW + offset).to_string()), Err(Unbelieved::Stale), "{offset}");
            assert_eq!(servicenow((NOW + offset).to_string()), Err(Unbelieved::Stale), "{offset}");
        }
        for time in ["", "-1", "+1793491200", "1793491200.0", "1e9", "9999999999999999999"] {
            assert_eq!(slack(time.to_owned()), Err(Unbelieved::Time), "{time}");
        }
    }

    #[test]
    fn another_time_is_another_signature() {
        let signed = code(&[b"v0:", NOW.to_string().as_bytes(), b":", b"payload=x"]);
        let headers = [
            ("x-slack-request-timestamp", (NOW + 1).to_string()),
            ("x-slack-signature", format!("v0={}", hex::encode(signed))),
        ];
        assert_eq!(believed(Source::Slack, &headers, b"payload=x"), Err(Unbelieved::Signature));
        assert_eq!(believed(Source::Schedule, &headers, b""), Err(Unbelieved::Source));
    }
}
