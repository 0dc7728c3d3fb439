// Package wire turns connections into decoded requests and replies into
// bytes: framing, bounded decoding of untrusted requests, the version table,
// the ordered ring of replies, sendfile. It knows nothing of topics, groups
// or logs; what a request means is the Handler's business (package api).
package wire

import (
	"context"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// Client says who is at the other end of a connection. Values are fixed for a
// connection's life except Software*, which ApiVersions sets (KIP-511).
type Client struct {
	ID              uint64   // of the connection, unique in the process
	Remote          net.Addr // the peer's address
	SoftwareName    string   // "" until ApiVersions v3+ names it
	SoftwareVersion string
}

// Request is one decoded request. Body's byte slices alias the frame it came
// in; they stay valid until reply was called and returned, not longer.
type Request struct {
	Client        *Client
	ClientID      string // the header's client id, "" when null
	CorrelationID int32
	Body          kmsg.Request // Key(), GetVersion() are the header's

	conn *conn // nil: made by a test
}

// AwaitRoom waits once while connections hold too much memory, in replies that
// nobody takes above all; false when the connection ends first. Serve is
// called after such a wait. A handler that makes few large replies at one time
// asks again before each.
func (r *Request) AwaitRoom() bool {
	if r.conn == nil {
		return true
	}
	relief := r.conn.srv.relief()
	if relief == nil {
		return true
	}
	select {
	case <-relief:
		return true
	case <-r.conn.ctx.Done():
		return false
	}
}

// Hurried has wake told, without blocking, when another request has come on the
// connection while this one is not answered: that waits for it. Only the last
// who asks of a connection's requests is told.
func (r *Request) Hurried(wake chan<- struct{}) {
	if r.conn != nil {
		r.conn.hurried(wake)
	}
}

// Reply is the answer to one Request.
type Reply struct {
	// Body is the response; its version must be set to the request's. Nil
	// sends nothing (acks=0), unless Fetch is set.
	Body kmsg.Response
	// Fetch answers a Fetch request with records as spans, which the
	// connection releases whether or not they could be sent.
	Fetch *FetchReply
	// Alone says that the goroutine that gives the reply has nothing else to do:
	// it may send it, too, and others of the connection.
	Alone bool
	// Close ends the connection after the reply was sent (if there is one).
	Close bool
	// Reason is why, for the log line that Close writes.
	Reason string
}

// FetchReply is a Fetch response whose records are not in memory. Spans[i][j]
// are the records of Body.Topics[i].Partitions[j], whose RecordBatches field
// stays nil and is ignored.
type FetchReply struct {
	Body  *kmsg.FetchResponse
	Spans [][][]record.Span
}

// Handler answers requests. Serve is called by a connection's reader, in the
// order of arrival, and should return soon: what must wait (a long poll, a
// join) is finished elsewhere, and reply is called later. reply must be
// called exactly once per request, by any goroutine; replies go out in the
// order of their requests whatever the order of the calls. ctx ends with the
// connection or the server.
type Handler interface {
	Serve(ctx context.Context, req *Request, reply func(Reply))
}
