;; The attack: `hog` with eight memories. Each grows by a mebibyte and is
;; written to, in turn, until there is no more. A host that holds every memory
;; to the limit by itself gives it eight times as much. No Rust crate has more
;; than one memory, so this is written as text.
;;
;; The outcome: `memory-budget`, 500. A growth that is denied traps.
(component
  (import "wasi:http/types@0.2.3" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))

  (core module $cell
    (memory 0)
    (func (export "grow") (local $at i32)
      (local.set $at (memory.grow (i32.const 16)))
      (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
      (memory.fill
        (i32.mul (local.get $at) (i32.const 65536))
        (i32.const 0xa5)
        (i32.const 1048576))))
  (core instance $a (instantiate $cell))
  (core instance $b (instantiate $cell))
  (core instance $c (instantiate $cell))
  (core instance $d (instantiate $cell))
  (core instance $e (instantiate $cell))
  (core instance $f (instantiate $cell))
  (core instance $g (instantiate $cell))
  (core instance $h (instantiate $cell))

  (core module $hog
    (import "a" "grow" (func $a))
    (import "b" "grow" (func $b))
    (import "c" "grow" (func $c))
    (import "d" "grow" (func $d))
    (import "e" "grow" (func $e))
    (import "f" "grow" (func $f))
    (import "g" "grow" (func $g))
    (import "h" "grow" (func $h))
    (func (export "handle") (param i32 i32)
      (loop $more
        (call $a) (call $b) (call $c) (call $d)
        (call $e) (call $f) (call $g) (call $h)
        (br $more))))
  (core instance $guest (instantiate $hog
    (with "a" (instance $a)) (with "b" (instance $b))
    (with "c" (instance $c)) (with "d" (instance $d))
    (with "e" (instance $e)) (with "f" (instance $f))
    (with "g" (instance $g)) (with "h" (instance $h))))

  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $guest "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))
