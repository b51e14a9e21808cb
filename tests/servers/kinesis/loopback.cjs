// Loaded before a server that can only listen on all interfaces: whatever it listens on, it is on loopback.
const { Server } = require("node:net");

const listen = Server.prototype.listen;
Server.prototype.listen = function (...given) {
  const done = given.filter((each) => typeof each === "function");
  const port = typeof given[0] === "object" && given[0] !== null ? given[0].port : given[0];
  return listen.call(this, { port: Number(port), host: "127.0.0.1" }, ...done);
};
