;; The attack: each instance has eight memories, sixteen tables and seventeen core
;; instances, uses none of them and waits for ever. Slots for memories, tables
;; and core instances are shared by all apps of a worker; whoever takes eight
;; where others take one leaves them none.
;;
;; The outcome: `deadline`, 504, or `instances-exhausted`, 503, for itself; it
;; must not come to the latter for its neighbours.
(component
  (import "wasi:io/poll@0.2.3" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock
    (alias outer 1 $pollable (type $p))
    (export "pollable" (type $pollable (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:http/types@0.2.3" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $sleep (canon lower (func $clock "subscribe-duration")))

  (core module $cell
    (memory 1)
    (table 1 funcref))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core instance (instantiate $cell))
  (core module $table
    (table 1 funcref))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core instance (instantiate $table))
  (core module $hoard
    (import "host" "block" (func $block (param i32)))
    (import "host" "sleep" (func $sleep (param i64) (result i32)))
    (func (export "handle") (param i32 i32)
      (loop $again
        (call $block (call $sleep (i64.const 0x3fffffffffffffff)))
        (br $again))))
  (core instance $guest (instantiate $hoard
    (with "host" (instance
      (export "block" (func $block))
      (export "sleep" (func $sleep))))))

  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $guest "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))
