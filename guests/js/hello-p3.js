// Answers "Hello from JavaScript!", and reflects what is posted to /echo, in
// WASI 0.3. Runs in QuickJS, which has neither URL nor TextEncoder.

import types from "wasi:http/types@0.3.0";

const { Fields, Request, Response } = types;

const ascii = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));

const HELLO = ascii("Hello from JavaScript!\n");
const TEXT = ascii("text/plain");

// Futures that are settled already, with nothing to say and nothing gone wrong.
const settled = (type) => wit.Future.from({ tag: "ok", val: null }, type).readable;
const noTrailers = () => settled(wit.Future.RESULT_OPTION_OTHER_ERROR_CODE);
const allWell = () => settled(wit.Future.RESULT_VOID_ERROR_CODE);

export const handler = {
  async handle(request) {
    const [path] = (request.getPathWithQuery() ?? "").split("?");
    if (request.getMethod().tag === "post" && path === "/echo") {
      const [type = TEXT] = request.getHeaders().get("content-type");
      const [body, trailers] = Request.consumeBody(request, allWell());
      return respond(type, body, trailers);
    }
    return respond(TEXT, [HELLO], noTrailers());
  },
};

function respond(type, body, trailers) {
  const headers = Fields.fromList([["content-type", type]]);
  const [response] = Response.new(headers, body, trailers);
  return response;
}
