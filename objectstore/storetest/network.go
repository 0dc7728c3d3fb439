package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/storetest/proxy"
)

// RunNetwork tries a store whose network is bad, under WithRetry: what is
// called succeeds or fails within its deadlines, never hangs, and never gives
// or leaves other bytes than were written. target is the server's host:port;
// open gives an empty store that reaches it at addr, which is a proxy's.
func RunNetwork(t *testing.T, target string, open func(t testing.TB, addr string) objectstore.Store) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, s objectstore.Store, p *proxy.Proxy)
	}{
		{"Latency", latency},
		{"Narrow", narrow},
		{"ResetUpload", resetUpload},
		{"ResetMultipart", resetMultipart},
		{"ResetDownload", resetDownload},
		{"LostAnswer", lostAnswer},
		{"Blackhole", blackhole},
		{"BlackholeInBody", blackholeInBody},
		{"Refused", refused},
		{"CancelInBlackhole", cancelInBlackhole},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := proxy.New(t, target)
			s := open(t, p.Addr())
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			tc.run(t, s, p)
		})
	}
}

// persistent retries until it works; the deadlines are generous, since a
// machine under load is slow by itself.
func persistent(s objectstore.Store) objectstore.Store { return persistentFor(s, 12) }

func persistentFor(s objectstore.Store, attempts int) objectstore.Store {
	return objectstore.WithRetry(s, objectstore.RetryConfig{
		Attempts: attempts, Base: time.Millisecond, Max: 20 * time.Millisecond, Budget: 1e6,
		Timeout: 20 * time.Second, Stall: 20 * time.Second})
}

// hasty gives up on an attempt after a short while.
func hasty(s objectstore.Store, attempts int) objectstore.Store {
	return objectstore.WithRetry(s, objectstore.RetryConfig{
		Attempts: attempts, Base: time.Millisecond, Max: 20 * time.Millisecond, Budget: 1e6,
		Timeout: 250 * time.Millisecond, Stall: 250 * time.Millisecond, MinRate: 1 << 30})
}

func latency(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	s = persistent(s)
	p.Set(proxy.Faults{Latency: 20 * time.Millisecond})
	data := Data(1, 100_000)
	put(t, s, "slow/a", data)
	wantContent(t, s, "slow/a", data)
	if got := list(t, s, "slow/", ""); len(got) != 1 {
		t.Errorf("list: %+v", got)
	}
	if err := s.Delete(patient(t), "slow/a"); err != nil {
		t.Error(err)
	}
	wantAbsent(t, s, "slow/a")
}

func narrow(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	s = persistent(s)
	p.Set(proxy.Faults{Rate: 8 << 20})
	data := Data(2, 2<<20)
	put(t, s, "narrow", data)
	wantContent(t, s, "narrow", data)
}

func wantResets(t *testing.T, p *proxy.Proxy) {
	t.Helper()
	if p.Resets() == 0 {
		t.Error("no connection was cut: the test tried nothing")
	}
}

func resetUpload(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	s = persistent(s)
	p.Set(proxy.Faults{ResetUp: 700_000, Resets: 3})
	data := Data(3, 2<<20)
	put(t, s, "cut", data)
	wantResets(t, p)
	wantContent(t, s, "cut", data)
}

func resetMultipart(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	s = persistent(s)
	p.Set(proxy.Faults{ResetUp: 5 << 20, Resets: 3})
	data := Data(4, 36<<20)
	put(t, s, "cut", data)
	wantResets(t, p)
	wantContent(t, s, "cut", data)
}

func resetDownload(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	// A reset also throws away what the kernel had not handed over yet, on a
	// busy machine nearly all of it: there must be tries enough.
	s = persistentFor(s, 200)
	data := Data(5, 6<<20)
	put(t, s, "cut", data)
	p.Set(proxy.Faults{ResetDown: 1 << 20})
	wantContent(t, s, "cut", data)
	got, err := read(t, s, "cut", 1000, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "range", got, data[1000:1000+3<<20])
	wantResets(t, p)
}

// lostAnswer: the server did it, the answer was cut off. The retry must not
// take its own object for another's.
func lostAnswer(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	direct := s
	s = persistent(s)
	for name, size := range map[string]int{"empty": 0, "small": 10_000} {
		before := p.Resets()
		p.Set(proxy.Faults{ResetDown: 1, Resets: 1})
		p.CloseAll()
		data := Data(6, size)
		put(t, s, "lost/"+name, data)
		if p.Resets() != before+1 {
			t.Errorf("%d answers were lost, want 1", p.Resets()-before)
		}
		wantContent(t, s, "lost/"+name, data)
	}
	p.Set(proxy.Faults{})
	first, err := s.Swap(patient(t), "lost/ptr", []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	p.Set(proxy.Faults{ResetDown: 1, Resets: 1})
	p.CloseAll()
	second, err := s.Swap(patient(t), "lost/ptr", []byte("two"), first.ETag)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, "lost/ptr", []byte("two"))
	if third, err := direct.Swap(patient(t), "lost/ptr", []byte("three"), second.ETag); err != nil {
		t.Errorf("the etag %q of a swap whose answer was lost is not the object's: %+v, %v", second.ETag, third, err)
	}
	// Somebody else's object is not taken for ours.
	put(t, direct, "lost/other", Data(7, 10_000))
	p.Set(proxy.Faults{ResetDown: 1, Resets: 1})
	p.CloseAll()
	_, err = s.Put(patient(t), "lost/other", bytes.NewReader(Data(8, 10_000)), 10_000)
	wantErr(t, "put over another's object", err, objectstore.ErrExists)
	wantContent(t, s, "lost/other", Data(7, 10_000))
}

func blackhole(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	data := Data(9, 50_000)
	put(t, persistent(s), "there", data)
	p.Set(proxy.Faults{Blackhole: true})
	q := hasty(s, 2)
	ctx := patient(t)
	_, err := q.Put(ctx, "new/small", bytes.NewReader(data), int64(len(data)))
	wantErr(t, "put", err, objectstore.ErrTimeout)
	large := Data(9, 17<<20)
	_, err = q.Put(ctx, "new/large", bytes.NewReader(large), int64(len(large)))
	wantErr(t, "large put", err, objectstore.ErrTimeout)
	_, err = q.Swap(ctx, "new/swap", data, "")
	wantErr(t, "swap", err, objectstore.ErrTimeout)
	_, err = q.Head(ctx, "there")
	wantErr(t, "head", err, objectstore.ErrTimeout)
	_, err = q.GetRange(ctx, "there", 0, 10)
	wantErr(t, "get", err, objectstore.ErrTimeout)
	wantErr(t, "delete", q.Delete(ctx, "there"), objectstore.ErrTimeout)
	err = nil
	for _, lerr := range q.List(ctx, "", "") {
		err = lerr
	}
	wantErr(t, "list", err, objectstore.ErrTimeout)
	if ctx.Err() != nil {
		t.Error("the calls hung")
	}
	// What was held back is lost with its connections; the store works again.
	p.CloseAll()
	p.Set(proxy.Faults{})
	put(t, persistent(s), "after", data)
	wantContent(t, persistent(s), "after", data)
}

func blackholeInBody(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	const size = 24 << 20 // more than sockets hold
	data := Data(10, size)
	put(t, persistent(s), "large", data)
	q := hasty(s, 1000)
	rc, err := q.GetRange(patient(t), "large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	head := make([]byte, 1<<20)
	if _, err := io.ReadFull(rc, head); err != nil {
		t.Fatal(err)
	}
	p.Set(proxy.Faults{Blackhole: true})
	conns := p.Accepted()
	healed := make(chan error, 1)
	go func() {
		// Heal once the reader has given its connection up for another.
		defer p.Set(proxy.Faults{})
		healed <- until(t.Context(), func() bool { return p.Accepted() > conns })
	}()
	rest, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-healed; err != nil {
		t.Error(err)
	}
	wantBytes(t, "body", append(head, rest...), data)
}

// until polls: what it waits for is counted by another goroutine.
func until(ctx context.Context, what func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !what() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("what was waited for did not happen: %w", ctx.Err())
		}
	}
	return nil
}

func refused(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	data := Data(11, 1000)
	p.Set(proxy.Faults{Refuse: true})
	_, err := hasty(s, 2).Put(patient(t), "refused", bytes.NewReader(data), 1000)
	if err == nil || !objectstore.Retryable(err) {
		t.Errorf("put: %v, want an error that is worth a retry", err)
	}
	conns := p.Accepted()
	go func() {
		defer p.Set(proxy.Faults{})
		_ = until(t.Context(), func() bool { return p.Accepted() > conns+2 })
	}()
	q := objectstore.WithRetry(s, objectstore.RetryConfig{Attempts: 10_000, Base: time.Millisecond, Max: 5 * time.Millisecond, Budget: 1e6})
	put(t, q, "refused", data)
	wantContent(t, q, "refused", data)
}

func cancelInBlackhole(t *testing.T, s objectstore.Store, p *proxy.Proxy) {
	p.Set(proxy.Faults{Blackhole: true})
	q := persistent(s)
	for name, call := range map[string]func(ctx context.Context) error{
		"put": func(ctx context.Context) error {
			_, err := q.Put(ctx, "k", bytes.NewReader(Data(1, 5<<20)), 5<<20)
			return err
		},
		"get":    func(ctx context.Context) error { _, err := q.GetRange(ctx, "k", 0, 1); return err },
		"head":   func(ctx context.Context) error { _, err := q.Head(ctx, "k"); return err },
		"delete": func(ctx context.Context) error { return q.Delete(ctx, "k") },
		"list": func(ctx context.Context) error {
			for _, err := range q.List(ctx, "", "") {
				return err
			}
			return errors.New("listed nothing")
		},
	} {
		ctx, cancel := context.WithCancel(patient(t))
		conns := p.Accepted()
		go func() {
			defer cancel()
			_ = until(ctx, func() bool { return p.Accepted() > conns })
		}()
		wantErr(t, name, call(ctx), context.Canceled)
		p.CloseAll()
	}
}
