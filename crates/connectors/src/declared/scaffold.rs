//! A definition to begin with: one reading operation that works against its own recording.

use super::error::Error;

/// The text of a new definition.
pub fn scaffold(name: &str) -> Result<String, Error> {
    if !kernel::connector::is_name(name) {
        let reason = "must be 1 to 32 of a-z, 0-9, `_` and `-`, beginning with a letter";
        return Err(Error::instance("name", reason));
    }
    Ok(TEXT.replace("NAME", name))
}

const TEXT: &str = r"# A connector. `tally connector test NAME.yaml` replays its exchanges;
# the guide is docs/guide/connectors.md.
apiVersion: tally/v1
kind: Connector
metadata:
  name: NAME
  version: 0.1.0
  title: NAME
  description: Says what this system is for.
spec:
  # Left out, each instance says where its system is.
  baseUrl: https://api.example.com
  auth:
    - {name: token, type: bearer}
  limits: {timeoutMs: 15000, responseBytes: 1048576, inFlight: 8}
  headers: {accept: application/json}
  errors:
    - when: {status: 401}
      code: credential_refused
      category: AUTH
      meaning: the system does not accept the credential of the instance
      hint: rotate the secret that the instance names
    - when: {status: 404}
      code: not_found
      category: NOT_FOUND
      meaning: there is no such item
      hint: check id
  operations:
    get_item:
      description: Reads one item.
      labels: [read, external]
      # What a call costs, and how often it may be called, where the system says so:
      # cost: {perCallMicroUsd: 5000}
      # caps: {perMinute: 60}
      input:
        type: object
        additionalProperties: false
        required: [id]
        properties:
          id: {type: string, minLength: 1, maxLength: 64}
      request:
        method: GET
        path: /v1/items/{{ params.id }}
      result:
        id: '{{ response.body.id }}'
        title: '{{ response.body.title }}'
      output:
        type: object
        additionalProperties: false
        required: [id, title]
        properties: {id: {type: string}, title: {type: string}}
exchanges:
  - name: reads an item
    operation: get_item
    params: {id: a/1}
    steps:
      - request:
          method: GET
          path: /v1/items/a%2F1
          headers: {authorization: Bearer test-token}
        answer: {status: 200, body: {id: a/1, title: First, more: left out}}
    result: {id: a/1, title: First}
  - name: says that there is none
    operation: get_item
    params: {id: '2'}
    steps:
      - request: {method: GET, path: /v1/items/2}
        answer: {status: 404, body: {message: no such item}}
    failure: {code: not_found, category: NOT_FOUND, retryable: false}
";
