//! What an ID token says, checked against what was asked.

use serde::Deserialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use super::error::{Error, Result};
use crate::limits;

/// What an ID token must fit.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// Seconds since 1970.
    pub(super) now: i64,
}

/// A person, as their provider describes them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) subject: String,
    pub(super) name: String,
    /// The groups in the claim that was named; none where the claim is not there.
    pub(super) groups: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    // Some providers write times with a fraction.
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    nonce: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The claims of an ID token whose signature was verified.
pub(super) fn check(
    payload: &[u8],
    expected: &Expected<'_>,
) -> Result<(String, Map<String, Value>)> {
    let refused = |why| Err(Error::IdToken(why));
    let form = |_| Error::IdToken("a claim is missing or has another form");
    let claims: Claims = serde_json::from_slice(payload).map_err(form)?;
    if claims.iss != expected.issuer {
        return refused("it is of another issuer");
    }
    let audience = match &claims.aud {
        Audience::One(one) => std::slice::from_ref(one),
        Audience::Many(many) => many.as_slice(),
    };
    if !audience.iter().any(|audience| audience == expected.client_id) {
        return refused("it is for somebody else");
    }
    match &claims.azp {
        Some(azp) if azp != expected.client_id => return refused("it is for somebody else"),
        None if audience.len() > 1 => return refused("it does not say whom it was made for"),
        _ => {}
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are small")]
    let (now, leeway) = (expected.now as f64, limits::ID_TOKEN_LEEWAY_S as f64);
    #[expect(clippy::cast_precision_loss, reason = "so are limits")]
    let oldest = now - (limits::LOGIN_S_MAX as f64) - leeway;
    if now >= claims.exp + leeway {
        return refused("it has expired");
    }
    let early = |at: f64| at > now + leeway;
    if early(claims.iat) || claims.nbf.is_some_and(early) {
        return refused("it is not good yet: compare the clocks");
    }
    if claims.iat < oldest {
        return refused("it is too old");
    }
    let nonce = claims.nonce.unwrap_or_default();
    if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
        return refused("it belongs to another login");
    }
    if claims.sub.is_empty() || claims.sub.len() > limits::SUBJECT_BYTES_MAX {
        return refused("its subject is empty or too long");
    }
    let all = serde_json::from_slice(payload).map_err(form)?;
    Ok((claims.sub, all))
}

impl Person {
    /// The person that `claims` describe.
    pub(super) fn new(subject: String, claims: &Map<String, Value>, roles: Option<&str>) -> Self {
        let text = |name: &&str| claims.get(*name).and_then(Value::as_str);
        let shown = ["name", "preferred_username", "email"].iter().filter_map(text);
        let name = shown.map(str::trim).find(|name| !name.is_empty()).unwrap_or("(no name)");
        let name = name.chars().take(limits::PERSON_NAME_CHARS_MAX).collect();
        Self { subject, name, groups: roles.and_then(|path| groups(claims, path)) }
    }
}

/// The texts of the claim at `path`: a name as it stands, or names joined by points.
fn groups(claims: &Map<String, Value>, path: &str) -> Option<Vec<String>> {
    let nested = || {
        let mut parts = path.split('.');
        let first = claims.get(parts.next()?);
        parts.fold(first, |value, part| value?.get(part))
    };
    match claims.get(path).or_else(nested)? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => {
            let texts = many.iter().take(limits::GROUPS_MAX).filter_map(Value::as_str);
            Some(texts.map(str::to_owned).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn checked(change: &Value) -> std::result::Result<String, &'static str> {
        let mut claims = json!({"iss": "https://id.example", "sub": "ann", "aud": "tally",
            "exp": NOW + 300, "iat": NOW - 1, "nonce": "n"});
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        let expected =
            Expected { issuer: "https://id.example", client_id: "tally", nonce: "n", now: NOW };
        match check(claims.to_string().as_bytes(), &expected) {
            Ok((subject, _)) => Ok(subject),
            Err(Error::IdToken(why)) => Err(why),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn every_claim_counts() {
        for good in [
            json!({}),
            json!({"aud": ["tally"]}),
            json!({"aud": ["other", "tally"], "azp": "tally"}),
            json!({"exp": NOW - limits::ID_TOKEN_LEEWAY_S + 1}),
            json!({"iat": NOW + limits::ID_TOKEN_LEEWAY_S, "exp": NOW as f64 + 0.5}),
        ] {
            assert_eq!(checked(&good), Ok("ann".to_owned()), "{good}");
        }
        for (bad, why) in [
            (json!({"iss": "https://id.example/"}), "another issuer"),
            (json!({"aud": "other"}), "somebody else"),
            (json!({"aud": []}), "somebody else"),
            (json!({"azp": "other"}), "somebody else"),
            (json!({"aud": ["other", "tally"]}), "whom it was made for"),
            (json!({"exp": NOW - limits::ID_TOKEN_LEEWAY_S}), "expired"),
            (json!({"iat": NOW + limits::ID_TOKEN_LEEWAY_S + 1}), "not good yet"),
            (json!({"nbf": NOW + limits::ID_TOKEN_LEEWAY_S + 1}), "not good yet"),
            (json!({"iat": NOW - limits::LOGIN_S_MAX - limits::ID_TOKEN_LEEWAY_S - 1}), "too old"),
            (json!({"nonce": "other"}), "another login"),
            (json!({"nonce": null}), "another login"),
            (json!({"sub": ""}), "subject"),
            (json!({"sub": "x".repeat(limits::SUBJECT_BYTES_MAX + 1)}), "subject"),
            (json!({"exp": null}), "missing"),
            (json!({"iat": null}), "missing"),
            (json!({"sub": 7}), "another form"),
            (json!({"exp": "soon"}), "another form"),
        ] {
            let said = checked(&bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn groups_by_name_or_path() {
        let claims = json!({"groups": ["a", "b", 7], "one": "a", "https://x.example/r": ["c"],
            "realm": {"roles": ["d"]}, "number": 7});
        let of = |path| groups(claims.as_object().unwrap(), path);
        let list = |all: &[&str]| Some(all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("groups"), list(&["a", "b"]));
        assert_eq!(of("one"), list(&["a"]));
        assert_eq!(of("https://x.example/r"), list(&["c"]));
        assert_eq!(of("realm.roles"), list(&["d"]));
        for absent in ["none", "realm.none", "realm", "number", "one.more", ""] {
            assert_eq!(of(absent), None, "{absent}");
        }
    }
}
