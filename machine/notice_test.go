package machine

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a metadata server of either kind.
type cloud struct {
	mu     sync.Mutex // guards what follows
	values map[string]string
	etag   int
	status int // of every answer, 0 for the true one
	tokens int // that were given
	waiter chan struct{}
}

func (c *cloud) set(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[key] = value
	c.etag++
	close(c.waiter)
	c.waiter = make(chan struct{})
}

func (c *cloud) fail(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	status, etag, wait := c.status, fmt.Sprint(1000+c.etag), c.waiter
	if r.Method == http.MethodPut && status == 0 {
		c.tokens++
		fmt.Fprintf(w, "token-%d", c.tokens)
		c.mu.Unlock()
		return
	}
	token := fmt.Sprintf("token-%d", c.tokens)
	c.mu.Unlock()
	key, gcp := strings.CutPrefix(r.URL.Path, "/computeMetadata/v1/instance/")
	if !gcp {
		key = strings.TrimPrefix(r.URL.Path, "/latest/meta-data/")
	}
	switch {
	case status != 0:
		w.WriteHeader(status)
		return
	case gcp && r.Header.Get("Metadata-Flavor") != "Google":
		w.WriteHeader(http.StatusForbidden)
		return
	case !gcp && r.Header.Get("X-aws-ec2-metadata-token") != token:
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if gcp && r.URL.Query().Get("last_etag") == etag {
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.values[key]
	if !ok || value == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("ETag", fmt.Sprint(1000+c.etag))
	fmt.Fprint(w, value)
}

// told is what was told last, and how often something was.
type told struct {
	all   []Notice
	calls int
	err   error
}

// watch follows a cloud's notices and gives what was told last.
func watch(t *testing.T, kind string, c *cloud) (last func() told) {
	t.Helper()
	c.waiter = make(chan struct{})
	server := httptest.NewServer(c)
	var mu sync.Mutex
	var all []Notice
	var err error
	calls := 0
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		noticesOf(kind, server.URL, 20*time.Millisecond)(ctx, func(n []Notice, e error) {
			mu.Lock()
			defer mu.Unlock()
			all, err = slices.Clone(n), e
			calls++
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		server.CloseClientConnections()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return func() told {
		mu.Lock()
		defer mu.Unlock()
		return told{all, calls, err}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAWSNotices(t *testing.T) {
	c := &cloud{values: map[string]string{
		"spot/instance-action":             `{"action": "terminate", "time": "2026-01-02T03:04:05Z"}`,
		"events/recommendations/rebalance": `{"noticeTime": "2026-01-02T03:00:00Z"}`,
		"events/maintenance/scheduled": `[{"NotBefore": "21 Jan 2026 09:00:43 GMT", "Code": "system-reboot", "Description": "scheduled reboot",
			"EventId": "instance-event-0d59937288b749b32", "NotAfter": "21 Jan 2026 09:17:23 GMT", "State": "active"},
			{"NotBefore": "21 Jan 2025 09:00:43 GMT", "Code": "instance-stop", "EventId": "x", "State": "completed"}]`,
	}}
	last := watch(t, AWS, c)
	eventually(t, "all four notices are told", func() bool { l := last(); return len(l.all) == 4 && l.err == nil })
	all := last().all
	at := time.Date(2026, 1, 21, 9, 0, 43, 0, time.UTC)
	for i, want := range []struct {
		kind Kind
		what string
		at   time.Time
	}{{Away, "spot interruption: terminate", time.Time{}}, {Leave, "rebalance", time.Time{}}, {Leave, "system-reboot", at}, {Away, "system-reboot", at}} {
		if all[i].Kind != want.kind || !strings.Contains(all[i].What, want.what) || !all[i].At.Equal(want.at) {
			t.Errorf("notice %d is %+v, want %+v", i, all[i], want)
		}
	}
	c.fail(http.StatusInternalServerError)
	eventually(t, "what cannot be asked is told", func() bool { l := last(); return l.err != nil && len(l.all) == 4 })
	c.fail(0)
	for _, key := range []string{"spot/instance-action", "events/recommendations/rebalance", "events/maintenance/scheduled"} {
		c.set(key, "")
	}
	eventually(t, "the notices have passed", func() bool { l := last(); return l.err == nil && len(l.all) == 0 })
}

// A token that is refused is replaced by another one.
func TestAWSTokenIsRenewed(t *testing.T) {
	c := &cloud{values: map[string]string{}}
	last := watch(t, AWS, c)
	eventually(t, "nothing is told", func() bool { l := last(); return l.calls > 0 && l.err == nil && len(l.all) == 0 })
	c.mu.Lock()
	c.tokens++ // the one that was given counts no more
	c.mu.Unlock()
	c.set("events/recommendations/rebalance", "{}")
	eventually(t, "it is asked with another token", func() bool { l := last(); return l.err == nil && len(l.all) == 1 })
}

func TestGCPNotices(t *testing.T) {
	c := &cloud{values: map[string]string{"preempted": "FALSE", "maintenance-event": "NONE"}}
	last := watch(t, GCP, c)
	eventually(t, "nothing is told", func() bool { l := last(); return l.calls > 0 && l.err == nil && len(l.all) == 0 })
	for _, v := range []struct{ key, value, what, back string }{
		{"maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", "host maintenance: MIGRATE_ON_HOST_MAINTENANCE", "NONE"},
		{"preempted", "TRUE", "preempted", "FALSE"},
	} {
		c.set(v.key, v.value)
		eventually(t, v.what, func() bool {
			l := last()
			return l.err == nil && len(l.all) == 1 && l.all[0].Kind == Away && l.all[0].At.IsZero() && strings.Contains(l.all[0].What, v.what)
		})
		c.set(v.key, v.back)
		eventually(t, v.what+" has passed", func() bool { return len(last().all) == 0 })
	}
	c.fail(http.StatusServiceUnavailable)
	c.set("preempted", "FALSE") // wakes who waits
	eventually(t, "what cannot be asked is told", func() bool { return last().err != nil })
	c.fail(0)
	eventually(t, "all is well again", func() bool { return last().err == nil })
}

func TestBadNotices(t *testing.T) {
	for _, text := range []string{"{", `[{"NotBefore": "soon", "State": "active"}]`, `{"a": 1}`} {
		if n, err := scheduled([]byte(text)); err == nil {
			t.Errorf("%s is read as %v", text, n)
		}
	}
}

func FuzzScheduled(f *testing.F) {
	f.Add([]byte(`[{"NotBefore": "21 Jan 2026 09:00:43 GMT", "Code": "system-reboot", "State": "active"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if all, err := scheduled(b); err == nil && len(all)%2 != 0 {
			t.Errorf("an event is told as %d notices", len(all))
		}
	})
}
