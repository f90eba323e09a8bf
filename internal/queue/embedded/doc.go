// Package embedded runs a NATS server with JetStream inside this process: the queue of a worker that is given no NATS
// URL, and of every test.
//
// Everything it keeps lies in one directory: the streams, a lock, and the client file from which programs on the same
// machine learn address and credential. Two servers on one directory would hand out the same sequence numbers twice and
// destroy both histories, so a directory is locked before anything in it is opened, and stays locked until the server
// has shut down; a process that dies gives its lock back.
//
// The server may listen on loopback addresses only, and asks everybody, this process included, for the credential in
// the client file. It has no TLS: a queue that other machines use needs a NATS server of its own.
package embedded
