//! Prints the OpenAPI document, for `cargo xtask gen`.

fn main() {
    print!("{}", proto::OPENAPI_JSON);
}
