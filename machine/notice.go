package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Metadata is where both clouds tell a machine about itself.
const Metadata = "http://169.254.169.254"

// noticeAhead is how long before an announced time the broker is drained: a
// clean stop takes seconds, and is ended by force after a minute and a half.
const noticeAhead = 2 * time.Minute

const (
	metadataEvery = 5 * time.Second  // AWS advises to ask for interruptions so often
	metadataCall  = 5 * time.Second  // one call that does not wait
	metadataWait  = 60 * time.Second // one call that waits for a change, at the server
	tokenLife     = 6 * time.Hour    // of IMDSv2, the longest there is
	maxMetadata   = 64 << 10         // bytes of an answer
)

// Kind says what a notice asks for.
type Kind string

const (
	// Away: the machine goes or stands still at a time, whatever one does.
	Away Kind = "away"
	// Leave: it may be taken later, or will be in some days; a machine that is
	// replaced before loses nothing.
	Leave Kind = "leave"
)

// Notice is something that the cloud announces.
type Notice struct {
	Kind Kind
	What string    // in words
	At   time.Time // when; zero for now
}

// Notices watches a cloud's metadata and calls told with all notices there are,
// first when they are known, and again whenever they change. It returns when
// ctx ends. What cannot be asked is logged by told's second argument, nil when
// all is well again; what was known stays.
type Notices func(ctx context.Context, told func(all []Notice, err error))

// NoticesOf gives the notices of a cloud; base is Metadata but in tests.
func NoticesOf(cloud, base string) Notices { return noticesOf(cloud, base, metadataEvery) }

func noticesOf(cloud, base string, every time.Duration) Notices {
	m := &metadata{base: base, every: every, client: &http.Client{Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 4, IdleConnTimeout: 2 * metadataWait}}}
	if cloud == GCP {
		return m.watchGCP
	}
	return m.watchAWS
}

type metadata struct {
	base   string
	every  time.Duration // between two questions
	client *http.Client

	token   string // IMDSv2; of the one goroutine of watchAWS
	renewAt time.Time
}

var errNone = errors.New("there is no such value") // 404

func (m *metadata) do(ctx context.Context, method, path string, header map[string]string, within time.Duration) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.base+path, nil)
	if err != nil {
		return nil, nil, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("instance metadata: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("instance metadata %s: %w", path, err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil, errNone
	case resp.StatusCode == http.StatusUnauthorized:
		m.renewAt = time.Time{}
		fallthrough
	case resp.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("instance metadata %s: %s", path, resp.Status)
	}
	return body, resp.Header, nil
}

// aws asks for a value, with IMDSv2's token. The value is nil where there is
// none.
func (m *metadata) aws(ctx context.Context, path string) ([]byte, error) {
	if now := time.Now(); !now.Before(m.renewAt) {
		seconds := fmt.Sprint(int(tokenLife / time.Second))
		token, _, err := m.do(ctx, http.MethodPut, "/latest/api/token", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": seconds}, metadataCall)
		if err != nil {
			return nil, err
		}
		m.token, m.renewAt = string(token), now.Add(tokenLife/2)
	}
	body, _, err := m.do(ctx, http.MethodGet, "/latest/meta-data/"+path, map[string]string{"X-aws-ec2-metadata-token": m.token}, metadataCall)
	if errors.Is(err, errNone) {
		return nil, nil
	}
	return body, err
}

func (m *metadata) watchAWS(ctx context.Context, told func([]Notice, error)) {
	var last []Notice
	first, failed := true, false
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		all, err := m.askAWS(ctx)
		switch {
		case err != nil:
			failed = true
			told(last, err)
		case first || failed || !slices.Equal(all, last):
			first, failed, last = false, false, all
			told(all, nil)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// askAWS asks for what AWS announces: the user guides "Spot Instance
// interruption notices", "EC2 instance rebalance recommendations" and
// "Scheduled events for your instances" have the forms.
func (m *metadata) askAWS(ctx context.Context) ([]Notice, error) {
	var all []Notice
	body, err := m.aws(ctx, "spot/instance-action")
	if err != nil {
		return nil, err
	}
	if body != nil {
		var v struct {
			Action string    `json:"action"`
			Time   time.Time `json:"time"`
		}
		if err := json.Unmarshal(body, &v); err != nil {
			return nil, fmt.Errorf("spot/instance-action: %w", err)
		}
		all = append(all, Notice{Away, fmt.Sprintf("spot interruption: %s at %s", v.Action, v.Time.UTC().Format(time.RFC3339)), time.Time{}})
	}
	if body, err = m.aws(ctx, "events/recommendations/rebalance"); err != nil {
		return nil, err
	}
	if body != nil {
		all = append(all, Notice{Leave, "rebalance recommendation: the spot machine is likely to be interrupted", time.Time{}})
	}
	if body, err = m.aws(ctx, "events/maintenance/scheduled"); err != nil {
		return nil, err
	}
	if body != nil {
		more, err := scheduled(body)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// scheduled reads AWS's scheduled events. Each is a reason to be replaced in
// good time, and, when its time comes first, to be drained.
func scheduled(body []byte) ([]Notice, error) {
	const layout = "2 Jan 2006 15:04:05 MST"
	var events []struct {
		Code      string
		NotBefore string
		State     string
		EventID   string `json:"EventId"`
	}
	if err := json.Unmarshal(body, &events); err != nil {
		return nil, fmt.Errorf("events/maintenance/scheduled: %w", err)
	}
	var all []Notice
	for _, e := range events {
		if e.State != "active" {
			continue // completed or canceled
		}
		at, err := time.Parse(layout, e.NotBefore)
		if err != nil {
			return nil, fmt.Errorf("events/maintenance/scheduled: NotBefore of %s: %w", e.EventID, err)
		}
		what := fmt.Sprintf("scheduled maintenance %s from %s", e.Code, at.UTC().Format(time.RFC3339))
		all = append(all, Notice{Leave, what, at}, Notice{Away, what, at})
	}
	return all, nil
}

// watchGCP waits for changes of the two values that announce what happens to
// the machine; the compute guides "Live migration" and "Preemptible VM
// instances" have their forms.
func (m *metadata) watchGCP(ctx context.Context, told func([]Notice, error)) {
	var mu sync.Mutex // guards the fields below, and orders calls of told
	values := map[string]string{}
	keys := []string{"preempted", "maintenance-event"}
	var running sync.WaitGroup
	for _, key := range keys {
		running.Go(func() {
			m.followGCP(ctx, key, func(value string, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					values[key] = value
				}
				if len(values) == len(keys) || err != nil {
					told(gcpNotices(values), err)
				}
			})
		})
	}
	running.Wait()
}

func gcpNotices(values map[string]string) (all []Notice) {
	if values["preempted"] == "TRUE" {
		all = append(all, Notice{Away, "the machine is being preempted", time.Time{}})
	}
	if v := values["maintenance-event"]; v != "" && v != "NONE" {
		all = append(all, Notice{Away, "host maintenance: " + v, time.Time{}})
	}
	return all
}

// followGCP tells a value, and again after each change.
func (m *metadata) followGCP(ctx context.Context, key string, told func(value string, err error)) {
	etag, last, failed := "0", "", false // 0 is no value's: the first answer comes at once
	for ctx.Err() == nil {
		path := fmt.Sprintf("/computeMetadata/v1/instance/%s?wait_for_change=true&timeout_sec=%d&last_etag=%s", key, int(metadataWait/time.Second), etag)
		body, header, err := m.do(ctx, http.MethodGet, path, map[string]string{"Metadata-Flavor": "Google"}, metadataWait+metadataCall)
		if errors.Is(err, errNone) { // not on this kind of machine
			body, header, err = []byte("NONE"), http.Header{"Etag": {etag}}, nil
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed, etag = true, "0"
			told("", err)
		} else if value := strings.TrimSpace(string(body)); value != last || failed || etag == "0" {
			failed, last = false, value
			told(value, nil)
		}
		pause := time.Duration(0)
		if err != nil || header.Get("ETag") == etag || header.Get("ETag") == "" { // nothing to wait by
			pause = m.every
		}
		if err == nil && header.Get("ETag") != "" {
			etag = header.Get("ETag")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
