;; Calls the tool `wait` with its input, and gives what that gives.
(component
    (import "call-tool" (func $call-tool
        (param "name" string) (param "args-json" string)
        (result (result string (error string)))))
    (core module $libc
        (memory (export "memory") 1)
        (global $next (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (global.get $next))
            (global.set $next (i32.add (global.get $next) (local.get 3)))
            (local.get $at)))
    (core instance $libc (instantiate $libc))
    (alias core export $libc "memory" (core memory $memory))
    (alias core export $libc "realloc" (core func $realloc))
    (core func $call (canon lower (func $call-tool) (memory $memory) (realloc $realloc)))
    (core module $agent
        (import "libc" "memory" (memory 1))
        (import "host" "call-tool" (func $call (param i32 i32 i32 i32 i32)))
        (data (i32.const 64) "wait")
        (func (export "run") (param $at i32) (param $len i32) (result i32)
            (call $call (i32.const 64) (i32.const 4) (local.get $at) (local.get $len)
                (i32.const 16))
            (i32.const 16)))
    (core instance $agent (instantiate $agent
        (with "libc" (instance $libc))
        (with "host" (instance (export "call-tool" (func $call))))))
    (func (export "run") (param "input" string) (result (result string (error string)))
        (canon lift (core func $agent "run") (memory $memory) (realloc $realloc))))
