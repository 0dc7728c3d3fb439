package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/record"
)

func TestMain(m *testing.M) {
	poison = true
	goleak.VerifyTestMain(m)
}

// handlerFunc is a Handler of one function.
type handlerFunc func(ctx context.Context, req *Request, reply func(Reply))

func (f handlerFunc) Serve(ctx context.Context, req *Request, reply func(Reply)) { f(ctx, req, reply) }

// echo answers every request with an empty response of its kind.
var echo = handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
	reply(Reply{Body: req.Body.ResponseKind()})
})

// logLines counts the lines of a logger.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

type testServer struct {
	*Server
	addr    string
	network string
	log     *logLines
	t       testing.TB
}

func startServer(t testing.TB, cfg Config, h Handler) *testServer {
	t.Helper()
	return startServerOn(t, cfg, h, "tcp", "127.0.0.1:0")
}

func startServerOn(t testing.TB, cfg Config, h Handler, network, addr string) *testServer {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	log := &logLines{}
	s := NewServer(cfg, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Handler: h})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &testServer{Server: s, addr: ln.Addr().String(), network: network, log: log, t: t}
}

func (s *testServer) dial() net.Conn {
	s.t.Helper()
	nc, err := net.Dial(s.network, s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	s.t.Cleanup(func() { nc.Close() })
	return nc
}

// frame encodes a request as clients do.
func frame(correlationID int32, req kmsg.Request) []byte {
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))
	return f.AppendRequest(nil, req, correlationID)
}

func rawFrame(body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// readReply reads one reply frame: the correlation id and what follows it.
func readReply(nc net.Conn) (int32, []byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err := io.ReadFull(nc, body)
	return int32(binary.BigEndian.Uint32(head[4:])), body, err
}

func heartbeat(v int16) *kmsg.HeartbeatRequest {
	r := kmsg.NewPtrHeartbeatRequest()
	r.Version, r.Group, r.MemberID = v, "g", "m"
	return r
}

func produce(v int16) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.Version = v
	return r
}

// awaitClosed reads until the peer closes, and says what came before.
func awaitClosed(t *testing.T, nc net.Conn) []byte {
	t.Helper()
	b, err := io.ReadAll(nc)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection was not closed")
	}
	return b
}

// Every key and version: a client's frame is decoded, and the reply's header
// has a tag byte where it must.
func TestEveryVersionIsServed(t *testing.T) {
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		if req.ClientID != "test" {
			t.Errorf("client id is %q", req.ClientID)
		}
		resp := req.Body.ResponseKind()
		reply(Reply{Body: resp})
	}))
	nc := s.dial()
	id := int32(0)
	for _, api := range apis {
		for v := api.min; v <= api.max; v++ {
			id++
			req := kmsg.RequestForKey(api.key)
			req.SetVersion(v)
			if av, ok := req.(*kmsg.ApiVersionsRequest); ok {
				av.ClientSoftwareName, av.ClientSoftwareVersion = "firn-test", "1.0"
			}
			if _, err := nc.Write(frame(id, req)); err != nil {
				t.Fatal(err)
			}
			got, body, err := readReply(nc)
			if err != nil {
				t.Fatalf("%s %d: %v; log: %q", api.name, v, err, s.log.all())
			}
			if got != id {
				t.Fatalf("%s %d: correlation id %d, want %d", api.name, v, got, id)
			}
			resp := req.ResponseKind()
			if resp.IsFlexible() && api.key != 18 {
				if body[0] != 0 {
					t.Fatalf("%s %d: no tag byte", api.name, v)
				}
				body = body[1:]
			}
			if want := resp.AppendTo(nil); !bytes.Equal(body, want) {
				t.Fatalf("%s %d: body %x, want %x", api.name, v, body, want)
			}
		}
	}
}

func TestPipelinedRepliesKeepTheirOrder(t *testing.T) {
	const n = 64
	replies := make(chan func(Reply), n)
	s := startServer(t, Config{MaxInflight: n}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		replies <- func(r Reply) { r.Body = req.Body.ResponseKind(); reply(r) }
	}))
	nc := s.dial()
	var out []byte
	for i := range int32(n) {
		out = append(out, frame(i, produce(3+int16(i%11)))...)
	}
	if _, err := nc.Write(out); err != nil {
		t.Fatal(err)
	}
	var waiting []func(Reply)
	for range n {
		waiting = append(waiting, <-replies)
	}
	for i := len(waiting) - 1; i >= 0; i-- { // the last first
		waiting[i](Reply{})
	}
	for i := range int32(n) {
		got, _, err := readReply(nc)
		if err != nil || got != i {
			t.Fatalf("reply %d has correlation id %d, error %v", i, got, err)
		}
	}
}

// A connection's reader stops at MaxInflight requests without a reply.
func TestInflightIsBounded(t *testing.T) {
	const limit = 4
	served := make(chan func(Reply), 100)
	s := startServer(t, Config{MaxInflight: limit}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		served <- func(Reply) { reply(Reply{Body: req.Body.ResponseKind()}) }
	}))
	nc := s.dial()
	for i := range int32(20) {
		nc.Write(frame(i, produce(9)))
	}
	var waiting []func(Reply)
	for range limit {
		waiting = append(waiting, <-served)
	}
	// The next comes only after a reply was sent, so the count never exceeds
	// the limit whatever the schedule.
	for i := range 20 {
		if len(served) > 0 && len(waiting)+len(served) > limit {
			t.Fatalf("%d requests in flight", len(waiting)+len(served))
		}
		waiting[0](Reply{})
		waiting = waiting[1:]
		if _, _, err := readReply(nc); err != nil {
			t.Fatal(err)
		}
		if i+limit < 20 {
			waiting = append(waiting, <-served)
		}
	}
}

func TestNoReplyForAcksZero(t *testing.T) {
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		if req.Body.Key() == 0 {
			reply(Reply{})
			return
		}
		reply(Reply{Body: req.Body.ResponseKind()})
	}))
	nc := s.dial()
	p := kmsg.NewPtrProduceRequest()
	p.Version = 9
	nc.Write(frame(1, p))
	nc.Write(frame(2, heartbeat(4)))
	if id, _, err := readReply(nc); err != nil || id != 2 {
		t.Fatalf("got correlation id %d, error %v; want 2", id, err)
	}
}

func TestBadFrames(t *testing.T) {
	good := frame(7, heartbeat(0))
	be := binary.BigEndian
	tests := []struct {
		name, reason string
		bytes        []byte
		halfClose    bool
	}{
		{"negative length", "frame_size", []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, false},
		{"zero length", "frame_size", make([]byte, 8), false},
		{"over the limit", "frame_size", be.AppendUint32(nil, 1<<20+1), false},
		{"an HTTP request", "frame_size", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false},
		{"a TLS hello", "frame_size", []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, false},
		{"too short for a header", "frame_size", rawFrame(0, 12, 0, 0, 0, 0, 0, 1), false},
		{"unknown key", "unknown_key", rawFrame(0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff), false},
		{"negative key", "unknown_key", rawFrame(0xff, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff), false},
		{"version too high", "unknown_version", rawFrame(0, 12, 0, 5, 0, 0, 0, 1, 0xff, 0xff), false},
		{"Produce 2, which is advertised", "unknown_version", rawFrame(0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff), false},
		{"negative version", "unknown_version", rawFrame(0, 12, 0xff, 0xff, 0, 0, 0, 1, 0xff, 0xff), false},
		{"client id runs over", "malformed", rawFrame(0, 12, 0, 0, 0, 0, 0, 1, 0x7f, 0xff), false},
		{"no body", "malformed", rawFrame(0, 12, 0, 0, 0, 0, 0, 1, 0xff, 0xff), false},
		{"tag bomb", "malformed", rawFrame(0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f), false},
		{"tag bomb in the header", "malformed", rawFrame(0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f), false},
		{"array bomb", "malformed", rawFrame(0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff), false},
		{"cut in the length", "truncated", good[:2], true},
		{"cut in the header", "truncated", good[:9], true},
		{"cut in the body", "truncated", good[:len(good)-1], true},
		{"unknown ApiVersions version without tags in its header", "malformed", rawFrame(0, 18, 0, 99, 0, 0, 0, 1, 0xff, 0xff), false},
		{"unknown ApiVersions version without a client id", "frame_size", rawFrame(0, 18, 0, 99, 0, 0, 0, 1), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := startServer(t, Config{MaxFrameBytes: 1 << 20}, echo)
			before := mClosed[tt.reason].Get()
			other := s.dial()
			nc := s.dial()
			nc.Write(tt.bytes)
			if tt.halfClose {
				nc.(*net.TCPConn).CloseWrite()
			}
			if got := awaitClosed(t, nc); len(got) > 0 {
				t.Errorf("got %x, want nothing", got)
			}
			lines := s.log.all()
			if len(lines) != 1 || !strings.Contains(lines[0], "reason="+tt.reason+" ") {
				t.Errorf("log is %q, want one line with reason %s", lines, tt.reason)
			}
			if n := mClosed[tt.reason].Get() - before; n != 1 {
				t.Errorf("%d were counted", n)
			}
			// Others go on.
			other.Write(good)
			if id, _, err := readReply(other); err != nil || id != 7 {
				t.Errorf("another connection got %d, %v", id, err)
			}
		})
	}
}

// A frame that cannot be served ends the connection, but not before what was
// sent ahead of it is answered.
func TestBadFrameBehindGoodOnes(t *testing.T) {
	for name, bad := range map[string][]byte{
		"length":  {0, 0, 0, 0, 0, 0, 0, 0},
		"key":     rawFrame(0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff),
		"version": rawFrame(0, 12, 0, 5, 0, 0, 0, 1, 0xff, 0xff),
		"body":    rawFrame(0, 12, 0, 0, 0, 0, 0, 1, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			s := startServer(t, Config{}, handlerFunc(func(ctx context.Context, req *Request, reply func(Reply)) {
				go func() {
					<-release
					echo(ctx, req, reply)
				}()
			}))
			nc := s.dial()
			nc.Write(append(frame(7, heartbeat(0)), bad...))
			close(release)
			if id, _, err := readReply(nc); err != nil || id != 7 {
				t.Fatalf("the request before it got %d, %v", id, err)
			}
			if got := awaitClosed(t, nc); len(got) > 0 {
				t.Errorf("then came %x, want nothing", got)
			}
		})
	}
}

func TestUnknownApiVersionsIsAnswered(t *testing.T) {
	s := startServer(t, Config{}, echo)
	nc := s.dial()
	for i, v := range []int16{5, 99, 32767, -1} {
		body := []byte{0, 18, byte(uint16(v) >> 8), byte(v), 0, 0, 0, byte(i), 0xff, 0xff, 0}
		body = append(body, "whatever comes in that version"...)
		nc.Write(rawFrame(body...))
		id, b, err := readReply(nc)
		if err != nil || id != int32(i) {
			t.Fatalf("version %d: id %d, %v", v, id, err)
		}
		var resp kmsg.ApiVersionsResponse
		if err := resp.ReadFrom(b); err != nil || resp.ErrorCode != 35 || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion != 4 {
			t.Fatalf("version %d: %+v, %v", v, resp, err)
		}
	}
	nc.Write(frame(9, heartbeat(0)))
	if id, _, err := readReply(nc); err != nil || id != 9 {
		t.Fatalf("afterwards: id %d, %v", id, err)
	}
}

func TestSoftwareNameIsKept(t *testing.T) {
	clients := make(chan *Client, 4)
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		clients <- req.Client
		reply(Reply{Body: req.Body.ResponseKind()})
	}))
	nc := s.dial()
	nc.Write(frame(1, heartbeat(0)))
	av := kmsg.NewPtrApiVersionsRequest()
	av.Version, av.ClientSoftwareName, av.ClientSoftwareVersion = 3, "apache-kafka-java", "4.3.1"
	nc.Write(frame(2, av))
	bad := *av
	bad.ClientSoftwareName = "-no"
	nc.Write(frame(3, &bad))
	a, b, c := <-clients, <-clients, <-clients
	if a.SoftwareName != "" || b.SoftwareName != "apache-kafka-java" || b.SoftwareVersion != "4.3.1" || c.SoftwareName != "apache-kafka-java" || a.ID != b.ID {
		t.Fatalf("clients: %+v, %+v, %+v", a, b, c)
	}
}

func TestManyConnections(t *testing.T) {
	const n = 1000
	s := startServer(t, Config{MaxConnections: n}, echo)
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = s.dial()
	}
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i, nc := range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range int32(5) {
				nc.Write(frame(int32(i)*10+j, heartbeat(4)))
				if id, _, err := readReply(nc); err != nil || id != int32(i)*10+j {
					errs <- fmt.Errorf("connection %d: id %d, %w", i, id, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
}

// fetchFile makes a file and a handler that answers Fetch with a span of it.
func fetchFile(t testing.TB, size int) (*record.File, []byte) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	path := filepath.Join(t.TempDir(), "segment")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return record.NewFile(f), data
}

func fetchOf(spans ...record.Span) *FetchReply {
	body := kmsg.NewPtrFetchResponse()
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic = "t"
	topic.Partitions = append(topic.Partitions, kmsg.NewFetchResponseTopicPartition())
	body.Topics = append(body.Topics, topic)
	return &FetchReply{Body: body, Spans: [][][]record.Span{{spans}}}
}

func fetchRequest(v int16) *kmsg.FetchRequest {
	r := kmsg.NewPtrFetchRequest()
	r.Version = v
	return r
}

func acquired(f *record.File, off, n int64) record.Span {
	if !f.Acquire() {
		panic("file is closed")
	}
	return record.Span{File: f, Off: off, Len: n}
}

// fetchHandler answers every request with the first n bytes of a file.
func fetchHandler(file *record.File, n int64) Handler {
	return handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) {
		reply(Reply{Fetch: fetchOf(acquired(file, 0, n))})
	})
}

// releaseOwner gives up the owner's reference, which must be the last.
func releaseOwner(t testing.TB, f *record.File) {
	t.Helper()
	f.Release()
	if f.Acquire() {
		t.Error("somebody still holds a reference to the file")
	}
}

// File spans of all sizes arrive whole, by sendfile and by copying.
func TestFetchSendsFiles(t *testing.T) {
	file, data := fetchFile(t, 5<<20)
	defer releaseOwner(t, file)
	mem := []byte("records in memory")
	big := bytes.Repeat([]byte("0123456789"), 50<<10)
	cuts := [][2]int64{{0, 10}, {5, directSpan - 1}, {7, directSpan}, {1, 3 << 20}, {0, 0}, {100, 5<<20 - 100}}
	h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) {
		var spans []record.Span
		for _, c := range cuts {
			spans = append(spans, acquired(file, c[0], c[1]), record.Span{Bytes: mem}, record.Span{Bytes: big})
		}
		reply(Reply{Fetch: fetchOf(spans...)})
	})
	var want []byte
	for _, c := range cuts {
		want = append(want, data[c[0]:c[0]+c[1]]...)
		want = append(append(want, mem...), big...)
	}
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			s := startServerOn(t, Config{}, h, network, addr)
			nc := s.dial()
			before := mSendfile.Get()
			for v := int16(4); v <= 18; v += 7 {
				nc.Write(frame(int32(v), fetchRequest(v)))
				id, b, err := readReply(nc)
				if err != nil || id != int32(v) {
					t.Fatalf("id %d, %v", id, err)
				}
				if v >= 12 {
					b = b[1:]
				}
				resp := kmsg.NewPtrFetchResponse()
				resp.Version = v
				if err := resp.ReadFrom(b); err != nil {
					t.Fatal(err)
				}
				if got := resp.Topics[0].Partitions[0].RecordBatches; !bytes.Equal(got, want) {
					t.Fatalf("version %d: %d bytes of records differ from the %d sent", v, len(got), len(want))
				}
			}
			if sent := mSendfile.Get() - before; (sent > 0) != (network == "tcp" && rawSockets) {
				t.Fatalf("%d bytes went by sendfile over %s", sent, network)
			}
		})
	}
}

// A file that is shorter than its span ends the connection; what was not
// there is not made up.
func TestShortFileCloses(t *testing.T) {
	for _, n := range []int64{20 << 10, 200 << 10} { // copied, sendfile
		file, data := fetchFile(t, 8<<10)
		s := startServer(t, Config{}, handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) {
			reply(Reply{Fetch: fetchOf(acquired(file, 0, n))})
		}))
		nc := s.dial()
		nc.Write(frame(1, fetchRequest(11)))
		got := awaitClosed(t, nc)
		if len(got) > 200+len(data) {
			t.Errorf("span of %d: %d bytes came of a file of %d", n, len(got), len(data))
		}
		if l := s.log.all(); len(l) != 1 || !strings.Contains(l[0], "short_file") {
			t.Errorf("log: %q", l)
		}
		closeNow(t, s)
		releaseOwner(t, file)
	}
}

func closeNow(t *testing.T, s *testServer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// A client that never reads holds up nobody else, and is closed after
// IdleTimeout. Its spans are released.
func TestSlowReaderBlocksNobody(t *testing.T) {
	file, _ := fetchFile(t, 8<<20)
	for _, network := range []string{"tcp", "unix"} { // sendfile, copy
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			s := startServerOn(t, Config{IdleTimeout: 300 * time.Millisecond}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
				if req.Body.Key() == 1 {
					reply(Reply{Fetch: fetchOf(acquired(file, 0, 8<<20))})
					return
				}
				reply(Reply{Body: req.Body.ResponseKind()})
			}), network, addr)
			slow, other := s.dial(), s.dial()
			for i := range int32(10) {
				slow.Write(frame(i, fetchRequest(11)))
			}
			for i := range int32(100) {
				other.Write(frame(i, heartbeat(0)))
				if id, _, err := readReply(other); err != nil || id != i {
					t.Fatalf("id %d, %v", id, err)
				}
			}
			waitFor(t, func() bool { return len(s.log.all()) > 0 })
			if l := s.log.all(); len(l) != 1 || !strings.Contains(l[0], "write_timeout") {
				t.Fatalf("log: %q", l)
			}
			closeNow(t, s)
		})
	}
	releaseOwner(t, file)
}

// waitFor polls for what has no event to wait on.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
	}
}

// A peer that closes only its side gets the replies that are due.
func TestHalfClose(t *testing.T) {
	served := make(chan func(Reply), 3)
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) { served <- reply }))
	nc := s.dial()
	for i := range int32(3) {
		nc.Write(frame(i, heartbeat(0)))
	}
	nc.(*net.TCPConn).CloseWrite()
	for range 3 {
		(<-served)(Reply{Body: kmsg.NewPtrHeartbeatResponse()})
	}
	for i := range int32(3) {
		if id, _, err := readReply(nc); err != nil || id != i {
			t.Fatalf("id %d, %v", id, err)
		}
	}
	if b := awaitClosed(t, nc); len(b) > 0 {
		t.Fatalf("got %x more", b)
	}
	if l := s.log.all(); len(l) != 0 {
		t.Fatalf("log: %q", l)
	}
}

// A client that is gone ends the context of what it asked for; the late reply
// releases its spans.
func TestLateReplyAfterClose(t *testing.T) {
	file, _ := fetchFile(t, 1<<10)
	type call struct {
		ctx   context.Context
		reply func(Reply)
	}
	served := make(chan call, 2)
	s := startServer(t, Config{}, handlerFunc(func(ctx context.Context, _ *Request, reply func(Reply)) { served <- call{ctx, reply} }))
	nc := s.dial()
	// Of Produce, since those are served together.
	nc.Write(frame(1, produce(12)))
	nc.Write(frame(2, produce(12)))
	a, b := <-served, <-served
	// The second is answered before the connection fails, the first after.
	b.reply(Reply{Fetch: fetchOf(acquired(file, 0, 100))})
	nc.(*net.TCPConn).SetLinger(0)
	nc.Close() // resets
	<-a.ctx.Done()
	a.reply(Reply{Fetch: fetchOf(acquired(file, 0, 100))})
	a.reply(Reply{Fetch: fetchOf(acquired(file, 0, 100))}) // a fault of the handler, but no leak
	closeNow(t, s)
	releaseOwner(t, file)
}

// A reply that closes arrives although more requests were sent; none of those
// is answered.
func TestReplyClose(t *testing.T) {
	var served atomic.Int32
	s := startServer(t, Config{MaxInflight: 1}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		served.Add(1)
		reply(Reply{Body: req.Body.ResponseKind(), Close: true, Reason: "because"})
	}))
	nc := s.dial()
	var out []byte
	for i := range int32(1000) {
		out = append(out, frame(1+i, heartbeat(0))...)
	}
	nc.Write(out)
	nc.(*net.TCPConn).CloseWrite()
	if id, _, err := readReply(nc); err != nil || id != 1 {
		t.Fatalf("id %d, %v", id, err)
	}
	if b := awaitClosed(t, nc); len(b) > 0 {
		t.Fatalf("got %x more", b)
	}
	waitFor(t, func() bool { return len(s.log.all()) > 0 })
	if l := s.log.all(); len(l) != 1 || !strings.Contains(l[0], "because") {
		t.Fatalf("log: %q", l)
	}
	if n := served.Load(); n != 1 {
		t.Fatalf("%d requests were served", n)
	}
}

// Close lets replies in flight finish, and reads nothing more.
func TestCloseIsGraceful(t *testing.T) {
	served := make(chan func(Reply), 1)
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) { served <- reply }))
	nc, idle := s.dial(), s.dial()
	idle.Write(frame(0, heartbeat(0)))
	(<-served)(Reply{Body: kmsg.NewPtrHeartbeatResponse()})
	if _, _, err := readReply(idle); err != nil {
		t.Fatal(err)
	}
	nc.Write(frame(1, heartbeat(0)))
	reply := <-served
	closed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		closed <- s.Close(ctx)
	}()
	if b := awaitClosed(t, idle); len(b) > 0 {
		t.Fatalf("got %x", b)
	}
	reply(Reply{Body: kmsg.NewPtrHeartbeatResponse()})
	if id, _, err := readReply(nc); err != nil || id != 1 {
		t.Fatalf("id %d, %v", id, err)
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", s.addr); err == nil {
		t.Fatal("still accepts")
	}
}

// Close does not wait longer than its context for a reply that never comes.
func TestCloseIsBounded(t *testing.T) {
	served := make(chan func(Reply), 1)
	ctxs := make(chan context.Context, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Config{}, Deps{Log: slog.New(slog.DiscardHandler), Handler: handlerFunc(func(ctx context.Context, _ *Request, reply func(Reply)) {
		ctxs <- ctx
		served <- reply
	})})
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.Write(frame(1, heartbeat(0)))
	reply, hctx := <-served, <-ctxs
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("close: %v", err)
	}
	<-hctx.Done()
	reply(Reply{Body: kmsg.NewPtrHeartbeatResponse()})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Requests wait for the budget of all connections, and get it when others
// are answered. A slab is not reused before its reply.
func TestInflightBytesAreBounded(t *testing.T) {
	const size = 100 << 10
	type call struct {
		rec   []byte
		reply func()
	}
	served := make(chan call, 10)
	s := startServer(t, Config{MaxInflightBytes: 2*size + size/2}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		p := req.Body.(*kmsg.ProduceRequest)
		served <- call{p.Topics[0].Partitions[0].Records, func() { reply(Reply{Body: req.Body.ResponseKind()}) }}
	}))
	const n = 6
	for i := range n {
		p := kmsg.NewPtrProduceRequest()
		p.Version = 11
		tp := kmsg.NewProduceRequestTopicPartition()
		tp.Records = bytes.Repeat([]byte{byte(i)}, size)
		p.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{tp}}}
		nc := s.dial()
		go nc.Write(frame(int32(i), p))
	}
	var waiting []call
	for got := 0; got < n; {
		for len(waiting) < 2 && got < n {
			waiting = append(waiting, <-served)
			got++
		}
		if len(served) > 0 {
			t.Fatal("a third request was read")
		}
		for _, c := range waiting {
			if !bytes.Equal(c.rec, bytes.Repeat(c.rec[:1], size)) {
				t.Fatal("the slab of a request in flight was overwritten")
			}
		}
		waiting[0].reply()
		waiting = waiting[1:]
	}
	for _, c := range waiting {
		c.reply()
	}
}
