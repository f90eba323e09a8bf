package simulator

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// Network is a net.Listener whose connections are pipes in memory. Waiting on a pipe lets the clock of a testing/synctest
// bubble run, waiting on a socket does not.
type Network struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

// NewNetwork returns a network that is listening.
func NewNetwork() *Network {
	return &Network{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Dial connects to whoever accepts, whatever the address; it fits http.Transport.DialContext.
func (n *Network) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	var err error
	select {
	case n.conns <- far:
		return near, nil
	case <-n.done:
		err = net.ErrClosed
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	near.Close()
	far.Close()
	return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: n.Addr(), Err: err}
}

// Accept waits for the next connection.
func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, &net.OpError{Op: "accept", Net: "pipe", Addr: n.Addr(), Err: net.ErrClosed}
	}
}

// Close ends Accept and Dial; connections stay.
func (n *Network) Close() error {
	n.close.Do(func() { close(n.done) })
	return nil
}

// Addr returns an address that says nothing.
func (n *Network) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// Serve runs a real HTTP server for h over a Network of its own and returns a transport that reaches it under any plain
// http address. stop cuts all connections and waits until the server has gone; a request that is being executed slowly
// holds it up until it is done.
func Serve(h http.Handler) (transport *http.Transport, stop func()) {
	n := NewNetwork()
	var serving, conns sync.WaitGroup
	server := &http.Server{Handler: h, ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew: // called by the goroutine that accepts, which serving waits for
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}}
	serving.Go(func() { server.Serve(n) }) // ends with http.ErrServerClosed
	transport = &http.Transport{DialContext: n.Dial}
	return transport, func() {
		transport.CloseIdleConnections()
		server.Close()
		serving.Wait()
		conns.Wait()
	}
}
