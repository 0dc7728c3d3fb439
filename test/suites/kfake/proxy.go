package kfake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// control sees requests of one key; once it has answered one it is gone.
type control func(kmsg.Request) (kmsg.Response, error, bool)

// proxy stands between clients and one broker. It reads every request, offers
// it to the controls, and passes it on as it came; in answers it puts its own
// address for the broker's.
type proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu       sync.Mutex
	controls map[int16][]control
	conns    map[net.Conn]struct{}
	closed   bool
}

const maxFrame = 256 << 20

func newProxy(target string) (*proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{target: target, ln: ln, controls: map[int16][]control{}, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.ln.Close()
	p.wg.Wait()
}

func (p *proxy) control(key int16, f control) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.controls[key] = append(p.controls[key], f)
}

// hold remembers a connection so that close ends it.
func (p *proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		if !p.hold(client) {
			return
		}
		p.wg.Go(func() {
			defer p.drop(client)
			broker, err := net.Dial("tcp", p.target)
			if err != nil || !p.hold(broker) {
				return
			}
			defer p.drop(broker)
			c := &conn{p: p, client: client, broker: broker, waiting: map[int32]kmsg.Request{}}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.answers()
				client.Close()
			}()
			c.requests()
			broker.Close()
			<-done
		})
	}
}

// conn is one client's connection and the one to the broker behind it.
type conn struct {
	p              *proxy
	client, broker net.Conn

	mu      sync.Mutex // the map, and writes to client
	waiting map[int32]kmsg.Request
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("kfake: a frame of %d bytes", n)
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

func writeFrame(w io.Writer, frame []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	return err
}

// requests passes on what the client sends until either side ends.
func (c *conn) requests() {
	for {
		frame, err := readFrame(c.client)
		if err != nil {
			return
		}
		req, correlation, err := parse(frame)
		if err != nil {
			return
		}
		if req != nil {
			answered, err := c.offer(req, correlation)
			if err != nil {
				return
			}
			if answered {
				continue
			}
			switch kmsg.Key(req.Key()) {
			case kmsg.Metadata, kmsg.FindCoordinator, kmsg.DescribeCluster, kmsg.Produce, kmsg.Fetch:
				c.mu.Lock()
				c.waiting[correlation] = req
				c.mu.Unlock()
			}
		}
		if err := writeFrame(c.broker, frame); err != nil {
			return
		}
	}
}

// parse decodes a request; one that kmsg does not know is nil.
func parse(frame []byte) (kmsg.Request, int32, error) {
	if len(frame) < 10 {
		return nil, 0, errors.New("kfake: a short request")
	}
	key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
	correlation := int32(binary.BigEndian.Uint32(frame[4:]))
	body := frame[10:]
	if n := int16(binary.BigEndian.Uint16(frame[8:])); n > 0 {
		if len(body) < int(n) {
			return nil, 0, errors.New("kfake: a short request")
		}
		body = body[n:]
	}
	req := kmsg.RequestForKey(key)
	if req == nil || version > req.MaxVersion() {
		return nil, correlation, nil
	}
	req.SetVersion(version)
	if req.IsFlexible() {
		if len(body) == 0 || body[0] != 0 {
			return nil, 0, errors.New("kfake: tagged fields in a request header")
		}
		body = body[1:]
	}
	if err := req.ReadFrom(body); err != nil {
		return nil, 0, err
	}
	return req, correlation, nil
}

// offer lets the controls of the key see the request, and answers it when one
// of them does.
func (c *conn) offer(req kmsg.Request, correlation int32) (bool, error) {
	c.p.mu.Lock()
	controls := c.p.controls[req.Key()]
	c.p.mu.Unlock()
	for i, f := range controls {
		resp, err, handled := f(req)
		if err != nil {
			return false, err
		}
		if !handled {
			continue
		}
		c.p.mu.Lock()
		kept := append([]control(nil), controls[:i]...)
		c.p.controls[req.Key()] = append(kept, controls[i+1:]...)
		c.p.mu.Unlock()
		if resp == nil {
			return true, nil
		}
		resp.SetVersion(req.GetVersion())
		return true, c.answer(correlation, resp)
	}
	return false, nil
}

func (c *conn) answer(correlation int32, resp kmsg.Response) error {
	frame := binary.BigEndian.AppendUint32(nil, uint32(correlation))
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		frame = append(frame, 0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return writeFrame(c.client, resp.AppendTo(frame))
}

// answers passes on what the broker sends until either side ends.
func (c *conn) answers() {
	for {
		frame, err := readFrame(c.broker)
		if err != nil || len(frame) < 4 {
			return
		}
		correlation := int32(binary.BigEndian.Uint32(frame))
		c.mu.Lock()
		req := c.waiting[correlation]
		delete(c.waiting, correlation)
		c.mu.Unlock()
		if req != nil {
			if resp := c.rewritten(req, frame[4:]); resp != nil {
				if err := c.answer(correlation, resp); err != nil {
					return
				}
				continue
			}
		}
		c.mu.Lock()
		err = writeFrame(c.client, frame)
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// rewritten decodes an answer and puts the proxy's address for the broker's;
// nil leaves the answer as it came.
func (c *conn) rewritten(req kmsg.Request, body []byte) kmsg.Response {
	resp := req.ResponseKind()
	if resp.IsFlexible() {
		if len(body) == 0 || body[0] != 0 {
			return nil
		}
		body = body[1:]
	}
	host, portText, err := net.SplitHostPort(c.p.addr())
	if err != nil {
		return nil
	}
	n, err := strconv.Atoi(portText)
	if err != nil || resp.ReadFrom(body) != nil {
		return nil
	}
	port := int32(n)
	switch r := resp.(type) {
	case *kmsg.MetadataResponse:
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = host, port
		}
	case *kmsg.DescribeClusterResponse:
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = host, port
		}
	case *kmsg.FindCoordinatorResponse:
		if r.Port > 0 {
			r.Host, r.Port = host, port
		}
		for i := range r.Coordinators {
			if r.Coordinators[i].Port > 0 {
				r.Coordinators[i].Host, r.Coordinators[i].Port = host, port
			}
		}
	case *kmsg.ProduceResponse:
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = host, port
		}
	case *kmsg.FetchResponse:
		if len(r.Brokers) == 0 {
			return nil // its records need no second encoding
		}
		for i := range r.Brokers {
			r.Brokers[i].Host, r.Brokers[i].Port = host, port
		}
	}
	return resp
}
