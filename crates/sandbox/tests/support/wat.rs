//! Components as text.

/// The component of a text.
pub(crate) fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What every component here is made with: memory from page 1 on, handed out in order, growing.
pub(crate) const LIBC: &str = r#"
    (core module $libc
        (memory (export "memory") 2)
        (global $next (mut i32) (i32.const 65536))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32) (local $end i32)
            (local.set $at
                (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (local.set $end (i32.add (local.get $at) (local.get 3)))
            (if (i32.gt_u (local.get $end) (i32.mul (memory.size) (i32.const 65536)))
                (then
                    (if (i32.eq (i32.const -1)
                            (memory.grow
                                (i32.add (i32.const 1)
                                    (i32.shr_u (local.get 3) (i32.const 16)))))
                        (then unreachable))))
            (global.set $next (local.get $end))
            (local.get $at)))
    (core instance $libc (instantiate $libc))
    (alias core export $libc "memory" (core memory $memory))
    (alias core export $libc "realloc" (core func $realloc))
"#;

/// Functions of a core module: `ok` and `err` make a result of a text.
pub(crate) const HELPERS: &str = r#"
    (func $give (param $failed i32) (param $at i32) (param $len i32) (result i32)
        (i32.store (i32.const 16) (local.get $failed))
        (i32.store (i32.const 20) (local.get $at))
        (i32.store (i32.const 24) (local.get $len))
        (i32.const 16))
    (func $ok (param i32 i32) (result i32)
        (call $give (i32.const 0) (local.get 0) (local.get 1)))
    (func $err (param i32 i32) (result i32)
        (call $give (i32.const 1) (local.get 0) (local.get 1)))
    ;; The digits of a number at 64, as JSON.
    (func $number (param $n i64) (result i32)
        (local $at i32)
        (local.set $at (i32.const 96))
        (loop $more
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (i32.store8 (local.get $at)
                (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
            (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
            (br_if $more (i64.ne (local.get $n) (i64.const 0))))
        (call $ok (local.get $at) (i32.sub (i32.const 96) (local.get $at))))
"#;

/// An agent whose function `run` has the body `body`, which has `$at` and `$len` of its input, the
/// function `$call` (name, args, result at) and the helpers.
pub(crate) fn agent(body: &str) -> String {
    agent_with("", "", "", body)
}

/// The same with more imports of the component, which are handed to the core module as `host`.
pub(crate) fn agent_with(imports: &str, given: &str, core: &str, body: &str) -> String {
    format!(
        r#"(component
    (import "call-tool" (func $call-tool
        (param "name" string) (param "args-json" string)
        (result (result string (error string)))))
    {LIBC}
    {imports}
    (core func $call-tool-core (canon lower (func $call-tool)
        (memory $memory) (realloc $realloc)))
    (core module $agent
        (import "libc" "memory" (memory 2))
        (import "host" "call-tool" (func $call (param i32 i32 i32 i32 i32)))
        {core}
        (data (i32.const 1024) "true")
        (data (i32.const 1040) "echo")
        (data (i32.const 1048) "refuse")
        (data (i32.const 1056) "diverge")
        (data (i32.const 1064) "slow")
        (data (i32.const 1072) "hold")
        (data (i32.const 1080) "never")
        {HELPERS}
        (func (export "run") (param $at i32) (param $len i32) (result i32)
            {body}))
    (core instance $agent (instantiate $agent
        (with "libc" (instance $libc))
        (with "host" (instance (export "call-tool" (func $call-tool-core)) {given}))))
    (func (export "run") (param "input" string) (result (result string (error string)))
        (canon lift (core func $agent "run") (memory $memory) (realloc $realloc))))"#
    )
}

/// Gives back its input.
pub(crate) fn echo() -> String {
    agent("(call $ok (local.get $at) (local.get $len))")
}

/// Calls the tool whose name is at `name` with its input, and gives what it gave.
pub(crate) fn calls(name: u32, len: u32) -> String {
    agent(&format!(
        "(call $call (i32.const {name}) (i32.const {len}) (local.get $at) (local.get $len)
            (i32.const 16))
        (i32.const 16)"
    ))
}

/// Never ends.
pub(crate) fn forever() -> String {
    agent("(loop $again (br $again)) (unreachable)")
}

/// Takes memory without end.
pub(crate) fn memory_bomb() -> String {
    agent(
        "(loop $more (br_if $more (i32.ne (i32.const -1)
            (memory.grow (i32.const 64))))) (unreachable)",
    )
}

/// Takes entries of a table without end.
pub(crate) fn table_bomb() -> String {
    agent_with(
        "",
        "",
        "(table $t 1 funcref)",
        "(loop $more (br_if $more (i32.ne (i32.const -1)
            (table.grow $t (ref.null func) (i32.const 5000))))) (unreachable)",
    )
}

/// Calls itself without end.
pub(crate) fn recursion() -> String {
    let core = "(func $deep (param i64) (result i64)
        (i64.add (i64.const 1) (call $deep (i64.add (local.get 0) (i64.const 1)))))";
    agent_with("", "", core, "(call $number (call $deep (i64.const 0)))")
}

/// A result of `bytes` bytes, which are there.
pub(crate) fn long(bytes: u32) -> String {
    agent(&format!(
        "(local $at2 i32)
        (drop (memory.grow (i32.const {})))
        (i32.store8 (i32.const 131072) (i32.const 34))
        (memory.fill (i32.const 131073) (i32.const 97) (i32.const {}))
        (i32.store8 (i32.const {}) (i32.const 34))
        (call $ok (i32.const 131072) (i32.const {bytes}))",
        bytes / 65536 + 2,
        bytes - 2,
        131_072 + bytes - 1,
    ))
}

/// Has 256 MiB of memory from the start.
pub(crate) fn large_start() -> String {
    echo().replace(
        "(core module $agent",
        "(core module $large (memory 4096)) (core instance (instantiate $large))
         (core module $agent",
    )
}

/// Never gets to its function.
pub(crate) fn loop_at_start() -> String {
    echo().replace(
        "(core module $agent",
        "(core module $spins (func $f (loop $l (br $l))) (start $f))
         (core instance (instantiate $spins)) (core module $agent",
    )
}

/// Calls the tool `echo` without end.
pub(crate) fn many_calls() -> String {
    agent(
        "(loop $again
            (call $call (i32.const 1040) (i32.const 4) (local.get $at) (local.get $len)
                (i32.const 16))
            (br $again)) (unreachable)",
    )
}

const TYPES: &str = r#"
    (import "wasi:filesystem/types@0.2.0" (instance $types
        (export "descriptor" (type $descriptor (sub resource)))
        (type $ec (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota"
            "exist" "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid"
            "io" "is-directory" "loop" "too-many-links" "message-size" "name-too-long" "no-device"
            "no-entry" "no-lock" "insufficient-memory" "insufficient-space" "not-directory"
            "not-empty" "not-recoverable" "unsupported" "no-tty" "no-such-device" "overflow"
            "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy" "cross-device"))
        (export "error-code" (type $error-code (eq $ec)))
        (type $pf (flags "symlink-follow"))
        (export "path-flags" (type $path-flags (eq $pf)))
        (type $of (flags "create" "directory" "exclusive" "truncate"))
        (export "open-flags" (type $open-flags (eq $of)))
        (type $df (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
            "requested-write-sync" "mutate-directory"))
        (export "descriptor-flags" (type $descriptor-flags (eq $df)))
        (export "[method]descriptor.open-at" (func
            (param "self" (borrow $descriptor)) (param "path-flags" $path-flags)
            (param "path" string) (param "open-flags" $open-flags)
            (param "flags" $descriptor-flags)
            (result (result (own $descriptor) (error $error-code)))))
        (export "[method]descriptor.read" (func
            (param "self" (borrow $descriptor)) (param "length" u64) (param "offset" u64)
            (result (result (tuple (list u8) bool) (error $error-code)))))
        (export "[method]descriptor.write" (func
            (param "self" (borrow $descriptor)) (param "buffer" (list u8)) (param "offset" u64)
            (result (result u64 (error $error-code)))))
        (export "[method]descriptor.create-directory-at" (func
            (param "self" (borrow $descriptor)) (param "path" string)
            (result (result (error $error-code)))))
        (export "[method]descriptor.unlink-file-at" (func
            (param "self" (borrow $descriptor)) (param "path" string)
            (result (result (error $error-code)))))
        (export "[method]descriptor.symlink-at" (func
            (param "self" (borrow $descriptor)) (param "old-path" string)
            (param "new-path" string) (result (result (error $error-code)))))
        (export "[method]descriptor.link-at" (func
            (param "self" (borrow $descriptor)) (param "old-path-flags" $path-flags)
            (param "old-path" string) (param "new-descriptor" (borrow $descriptor))
            (param "new-path" string) (result (result (error $error-code)))))
        (export "[method]descriptor.rename-at" (func
            (param "self" (borrow $descriptor)) (param "old-path" string)
            (param "new-descriptor" (borrow $descriptor)) (param "new-path" string)
            (result (result (error $error-code)))))
        (export "[method]descriptor.readlink-at" (func
            (param "self" (borrow $descriptor)) (param "path" string)
            (result (result string (error $error-code)))))))
    (alias export $types "descriptor" (type $descriptor))
    (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
        (alias outer 1 $descriptor (type $outer))
        (export "descriptor" (type $d (eq $outer)))
        (export "get-directories" (func (result (list (tuple (own $d) string)))))))
    (core func $dirs (canon lower (func $preopens "get-directories")
        (memory $memory) (realloc $realloc)))
"#;

/// The methods of a descriptor: the name, the name within the core module, and its core type.
const METHODS: [(&str, &str, &str); 9] = [
    ("open-at", "open", "i32 i32 i32 i32 i32 i32 i32"),
    ("read", "read", "i32 i64 i64 i32"),
    ("write", "write", "i32 i32 i32 i64 i32"),
    ("create-directory-at", "mkdir", "i32 i32 i32 i32"),
    ("unlink-file-at", "unlink", "i32 i32 i32 i32"),
    ("symlink-at", "symlink", "i32 i32 i32 i32 i32 i32"),
    ("link-at", "link", "i32 i32 i32 i32 i32 i32 i32 i32"),
    ("rename-at", "rename", "i32 i32 i32 i32 i32 i32 i32"),
    ("readlink-at", "readlink", "i32 i32 i32 i32"),
];

/// Does with a path what the first letter of its input says: `"r/data/a"` reads `/data/a`. Gives
/// the content or `true`; fails with `denied` and the number of the error code. After `m` are two
/// paths of one length: it writes its input to the first, calls the tool `hold`, and reads the
/// second.
pub(crate) fn files() -> String {
    let mut imports = TYPES.to_owned();
    let mut given = "(export \"dirs\" (func $dirs))".to_owned();
    let mut core = "(import \"host\" \"dirs\" (func $dirs (param i32)))".to_owned();
    for (method, name, ty) in METHODS {
        imports += &format!(
            "(core func ${name} (canon lower (func $types \"[method]descriptor.{method}\")
                (memory $memory) (realloc $realloc)))"
        );
        given += &format!("(export \"{name}\" (func ${name}))");
        core += &format!("(import \"host\" \"{name}\" (func ${name} (param {ty})))");
    }
    core += r#"
        (data (i32.const 1100) "/etc/passwd")
        (data (i32.const 1120) "data/link")
        (data (i32.const 1140) "denied ")
        (func $denied (param $code i32) (result i32)
            (drop (call $number (i64.extend_i32_u (local.get $code))))
            (memory.copy (i32.const 1147) (i32.load (i32.const 20)) (i32.load (i32.const 24)))
            (call $err (i32.const 1140)
                (i32.add (i32.const 7) (i32.load (i32.const 24)))))
        (func $done (param $code-at i32) (result i32)
            (if (result i32) (i32.load8_u (i32.const 128))
                (then (call $denied (i32.load8_u (local.get $code-at))))
                (else (call $ok (i32.const 1024) (i32.const 4)))))
        (func $opened (param i32 i32 i32 i32 i32) (result i32)
            (call $open (local.get 0) (i32.const 0) (local.get 1) (local.get 2)
                (local.get 3) (local.get 4) (i32.const 128))
            (i32.load8_u (i32.const 128)))"#;
    agent_with(&imports, &given, &core, FILES)
}

const FILES: &str = r#"
    (local $op i32) (local $dir i32) (local $path i32) (local $long i32) (local $left i32)
    (local.set $op (i32.load8_u offset=1 (local.get $at)))
    (local.set $path (i32.add (local.get $at) (i32.const 2)))
    (local.set $long (i32.sub (local.get $len) (i32.const 3)))
    (call $dirs (i32.const 128))
    (if (i32.eqz (i32.load (i32.const 132))) (then (return (call $denied (i32.const 99)))))
    (local.set $dir (i32.load (i32.load (i32.const 128))))
    (if (i32.eq (local.get $op) (i32.const 114)) (then ;; r
        (if (call $opened (local.get $dir) (local.get $path) (local.get $long)
                (i32.const 0) (i32.const 1))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (call $read (i32.load (i32.const 132)) (i64.const 65536) (i64.const 0) (i32.const 128))
        (if (i32.load8_u (i32.const 128))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (return (call $ok (i32.load (i32.const 132)) (i32.load (i32.const 136))))))
    (if (i32.or (i32.eq (local.get $op) (i32.const 119)) ;; w
            (i32.or (i32.eq (local.get $op) (i32.const 87)) ;; W: far out in the file
                (i32.eq (local.get $op) (i32.const 120)))) (then ;; x: fails after it
        (if (call $opened (local.get $dir) (local.get $path) (local.get $long)
                (i32.const 9) (i32.const 3))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (call $write (i32.load (i32.const 132)) (local.get $at) (local.get $len)
            (select (i64.const 4294967296) (i64.const 0)
                (i32.eq (local.get $op) (i32.const 87)))
            (i32.const 128))
        (if (i32.eq (local.get $op) (i32.const 120)) (then (unreachable)))
        (return (call $done (i32.const 136)))))
    (if (i32.eq (local.get $op) (i32.const 109)) (then ;; m: writes its input, calls, and reads
        (local.set $long (i32.shr_u (local.get $long) (i32.const 1)))
        (if (call $opened (local.get $dir) (local.get $path) (local.get $long)
                (i32.const 9) (i32.const 3))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (call $write (i32.load (i32.const 132)) (local.get $at) (local.get $len)
            (i64.const 0) (i32.const 128))
        (call $call (i32.const 1072) (i32.const 4) (local.get $at) (local.get $len)
            (i32.const 128))
        (if (call $opened (local.get $dir) (i32.add (local.get $path) (local.get $long))
                (local.get $long) (i32.const 0) (i32.const 1))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (call $read (i32.load (i32.const 132)) (i64.const 65536) (i64.const 0) (i32.const 128))
        (if (i32.load8_u (i32.const 128))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (return (call $ok (i32.load (i32.const 132)) (i32.load (i32.const 136))))))
    (if (i32.eq (local.get $op) (i32.const 100)) (then ;; d
        (call $mkdir (local.get $dir) (local.get $path) (local.get $long) (i32.const 128))
        (return (call $done (i32.const 129)))))
    (if (i32.eq (local.get $op) (i32.const 117)) (then ;; u
        (call $unlink (local.get $dir) (local.get $path) (local.get $long) (i32.const 128))
        (return (call $done (i32.const 129)))))
    (if (i32.eq (local.get $op) (i32.const 115)) (then ;; s
        (call $symlink (local.get $dir) (i32.const 1100) (i32.const 11)
            (local.get $path) (local.get $long) (i32.const 128))
        (return (call $done (i32.const 129)))))
    (if (i32.eq (local.get $op) (i32.const 108)) (then ;; l
        (call $link (local.get $dir) (i32.const 0) (local.get $path) (local.get $long)
            (local.get $dir) (i32.const 1120) (i32.const 9) (i32.const 128))
        (return (call $done (i32.const 129)))))
    (if (i32.eq (local.get $op) (i32.const 110)) (then ;; n
        (call $rename (local.get $dir) (local.get $path) (local.get $long)
            (local.get $dir) (i32.const 1120) (i32.const 9) (i32.const 128))
        (return (call $done (i32.const 129)))))
    (if (i32.eq (local.get $op) (i32.const 107)) (then ;; k
        (call $readlink (local.get $dir) (local.get $path) (local.get $long) (i32.const 128))
        (return (call $done (i32.const 132)))))
    (local.set $left (i32.const 5000)) ;; o: opens it again and again
    (loop $again
        (if (call $opened (local.get $dir) (local.get $path) (local.get $long)
                (i32.const 0) (i32.const 1))
            (then (return (call $denied (i32.load8_u (i32.const 132))))))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
    (call $ok (i32.const 1024) (i32.const 4))
"#;

/// Gives the reading of a function that takes nothing and gives a number.
pub(crate) fn number(interface: &str, function: &str) -> String {
    let imports = format!(
        "(import \"{interface}\" (instance $from (export \"{function}\" (func (result u64)))))
         (core func $get (canon lower (func $from \"{function}\")))"
    );
    agent_with(
        &imports,
        "(export \"get\" (func $get))",
        "(import \"host\" \"get\" (func $get (result i64)))",
        "(call $number (call $get))",
    )
}

/// Gives how many variables there are.
pub(crate) fn variables() -> String {
    let function = "get-environment";
    let imports = format!(
        "(import \"wasi:cli/environment@0.2.0\" (instance $from
            (export \"{function}\" (func (result (list (tuple string string)))))))
         (core func $get (canon lower (func $from \"{function}\")
            (memory $memory) (realloc $realloc)))"
    );
    agent_with(
        &imports,
        "(export \"get\" (func $get))",
        "(import \"host\" \"get\" (func $get (param i32)))",
        "(call $get (i32.const 128))
         (call $number (i64.extend_i32_u (i32.load (i32.const 132))))",
    )
}

/// Gives the value of its only variable, which must be JSON.
pub(crate) fn only_variable() -> String {
    variables().replace(
        "(call $number (i64.extend_i32_u (i32.load (i32.const 132))))",
        "(if (i32.ne (i32.const 1) (i32.load (i32.const 132))) (then (unreachable)))
         (call $ok (i32.load offset=8 (i32.load (i32.const 128)))
            (i32.load offset=12 (i32.load (i32.const 128))))",
    )
}

/// Ends itself with exit code 1.
pub(crate) fn exits() -> String {
    agent_with(
        "(import \"wasi:cli/exit@0.2.0\" (instance $from
            (export \"exit\" (func (param \"status\" (result))))))
         (core func $exit (canon lower (func $from \"exit\")))",
        "(export \"exit\" (func $exit))",
        "(import \"host\" \"exit\" (func $exit (param i32)))",
        "(call $exit (i32.const 1)) (unreachable)",
    )
}

/// Makes a socket; `kind` is `tcp` or `udp`.
pub(crate) fn socket(kind: &str) -> String {
    let imports = format!(
        r#"(import "wasi:sockets/network@0.2.0" (instance $network
            (type $ec (enum "unknown" "access-denied" "not-supported" "invalid-argument"
                "out-of-memory" "timeout" "concurrency-conflict" "not-in-progress" "would-block"
                "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
                "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
                "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
                "permanent-resolver-failure"))
            (export "error-code" (type $error-code (eq $ec)))
            (type $f (enum "ipv4" "ipv6"))
            (export "ip-address-family" (type (eq $f)))))
        (alias export $network "error-code" (type $error-code))
        (alias export $network "ip-address-family" (type $family))
        (import "wasi:sockets/{kind}@0.2.0" (instance $sockets
            (export "{kind}-socket" (type (sub resource)))))
        (alias export $sockets "{kind}-socket" (type $socket))
        (import "wasi:sockets/{kind}-create-socket@0.2.0" (instance $from
            (alias outer 1 $error-code (type $ec))
            (alias outer 1 $family (type $f))
            (alias outer 1 $socket (type $s))
            (export "error-code" (type $e (eq $ec)))
            (export "ip-address-family" (type $family (eq $f)))
            (export "{kind}-socket" (type $made (eq $s)))
            (export "create-{kind}-socket" (func (param "address-family" $family)
                (result (result (own $made) (error $e)))))))
        (core func $create (canon lower (func $from "create-{kind}-socket") (memory $memory)))"#
    );
    agent_with(
        &imports,
        "(export \"create\" (func $create))",
        "(import \"host\" \"create\" (func $create (param i32 i32)))
         (data (i32.const 1140) \"access denied\")",
        "(call $create (i32.const 0) (i32.const 128))
         (if (result i32) (i32.load8_u (i32.const 128))
            (then (call $err (i32.const 1140) (i32.const 13)))
            (else (call $ok (i32.const 1024) (i32.const 4))))",
    )
}
