;; The attack: makes handles of a resource of its own for ever. The table of
;; handles is the host's, grows with each, and is no `table` that a module has.
;;
;; The outcome: a store has a bound of its own for handles, and the guest traps:
;; `trap`, 500.
(component
  (import "wasi:http/types@0.2.3" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))

  (type $thing (resource (rep i32)))
  (core func $new (canon resource.new $thing))
  (core module $hog
    (import "host" "new" (func $new (param i32) (result i32)))
    (func (export "handle") (param i32 i32)
      (loop $more
        (drop (call $new (i32.const 0)))
        (br $more))))
  (core instance $guest (instantiate $hog
    (with "host" (instance (export "new" (func $new))))))

  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $guest "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))
