package wire

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A real client agrees with the server on versions, headers and framing.
func TestFranzGoClient(t *testing.T) {
	var host string
	var port int32
	names := make(chan string, 100)
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		select {
		case names <- req.Client.SoftwareName:
		default:
		}
		switch body := req.Body.(type) {
		case *kmsg.ApiVersionsRequest:
			resp := body.ResponseKind().(*kmsg.ApiVersionsResponse)
			for _, v := range Supported() {
				k := kmsg.NewApiVersionsResponseApiKey()
				k.ApiKey, k.MinVersion, k.MaxVersion = v.Key, v.Min, v.Max
				resp.ApiKeys = append(resp.ApiKeys, k)
			}
			reply(Reply{Body: resp})
		case *kmsg.MetadataRequest:
			resp := body.ResponseKind().(*kmsg.MetadataResponse)
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = 1, host, port
			resp.Brokers = append(resp.Brokers, b)
			reply(Reply{Body: resp})
		case *kmsg.ListGroupsRequest:
			resp := body.ResponseKind().(*kmsg.ListGroupsResponse)
			resp.Groups = append(resp.Groups, kmsg.ListGroupsResponseGroup{Group: "g"})
			reply(Reply{Body: resp})
		default:
			t.Errorf("unexpected request of key %d", body.Key())
			reply(Reply{Close: true})
		}
	}))
	a, err := net.ResolveTCPAddr("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	host, port = a.IP.String(), int32(a.Port)
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.addr), kgo.SoftwareNameAndVersion("firn-test", "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, cl)
	if err != nil || len(resp.Groups) != 1 || resp.Groups[0].Group != "g" || resp.Version != 5 {
		t.Fatalf("%+v, %v; log %q", resp, err, s.log.all())
	}
	if name := <-names; name != "firn-test" {
		t.Errorf("software name %q", name)
	}
}

// failingListener fails each Accept with the next of its errors.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

func TestServeSurvivesShortages(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	l := &failingListener{ln, []error{&net.OpError{Op: "accept", Err: syscall.EMFILE}, syscall.ECONNABORTED, broken}}
	log := &logLines{}
	s := NewServer(Config{}, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Handler: echo})
	if err := s.Serve(l); !errors.Is(err, broken) {
		t.Fatalf("serve: %v", err)
	}
	if n := len(log.all()); n != 2 {
		t.Errorf("%d lines, want 2", n)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was not closed: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A closed server serves nothing more.
	ln2, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(ln2); err != nil {
		t.Fatal(err)
	}
	if _, err := ln2.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second listener was not closed: %v", err)
	}
}
