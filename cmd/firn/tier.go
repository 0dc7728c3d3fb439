package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const defaultHTTP = "127.0.0.1:9644"

// addHTTP adds the flag that says where the broker's HTTP address is.
func (a *app) addHTTP(f *pflag.FlagSet, addr *string) {
	def := defaultHTTP
	if v := a.env("FIRN_HTTP"); v != "" {
		def = reachable(v)
	}
	f.StringVar(addr, "http", def, "`HOST:PORT` of the broker's HTTP address; FIRN_HTTP sets it too")
}

// reachable turns an address that a broker listens on into one that can be
// connected to.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// tierStatus is what the broker answers to GET /v1/tier/TOPIC.
type tierStatus struct {
	Topic      string          `json:"topic"`
	Store      string          `json:"store"`
	Partitions []tierPartition `json:"partitions"`
}

type tierPartition struct {
	Partition     int32  `json:"partition"`
	State         string `json:"state"`
	Enabled       bool   `json:"enabled"`
	LogStart      int64  `json:"logStart"`
	LogEnd        int64  `json:"logEnd"`
	HighWatermark int64  `json:"highWatermark"`
	LocalStart    int64  `json:"localStart"`
	LocalBytes    int64  `json:"localBytes"`
	RemoteStart   int64  `json:"remoteStart"`
	RemoteEnd     int64  `json:"remoteEnd"`
	RemoteBytes   int64  `json:"remoteBytes"`
	Objects       int64  `json:"objects"`
	Segments      int64  `json:"segments"`
	LagOffsets    int64  `json:"lagOffsets"`
	LagBytes      int64  `json:"lagBytes"`
	LagMs         int64  `json:"lagMs"`
	LastError     string `json:"lastError"`
	LastErrorMs   int64  `json:"lastErrorMs"`
}

// fetchTier asks the broker at addr about a topic. The answer is given raw
// too.
func fetchTier(ctx context.Context, addr, topic string) ([]byte, tierStatus, error) {
	var st tierStatus
	u := url.URL{Scheme: "http", Host: addr, Path: "/v1/tier/" + topic, RawPath: "/v1/tier/" + url.PathEscape(topic)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, st, usageError("--http %s: %w", addr, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, st, unreachableHTTP(addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, st, failf("", "read the answer of %s: %w", addr, err)
	}
	if resp.StatusCode == http.StatusNotFound {
		var e struct{ Error string }
		if json.Unmarshal(body, &e) == nil && e.Error != "" {
			return nil, st, failf("list the topics with: firn topic list", "%s", e.Error)
		}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, st, failf("is that the HTTP address of firn start?", "%s answers %s: %s", u.String(), resp.Status, bytes.TrimSpace(body[:min(len(body), 300)]))
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return nil, st, failf("is that the HTTP address of firn start?", "the answer of %s cannot be read: %w", addr, err)
	}
	return body, st, nil
}

func unreachableHTTP(addr string, err error) error {
	f := &failure{code: exitUnreachable, hint: "is the broker running? start one with: firn start   (or name another with --http HOST:PORT)"}
	if errors.Is(err, syscall.ECONNREFUSED) {
		f.err = fmt.Errorf("cannot reach the broker's HTTP address at %s: nothing listens there", addr)
		return f
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	f.err = fmt.Errorf("cannot reach the broker's HTTP address at %s: %w", addr, err)
	return f
}

func (a *app) tierCommand() *cobra.Command {
	var httpAddr string
	status := &cobra.Command{
		Use:   "status TOPIC",
		Short: "Show what of a topic is on local disk and in the object store",
		Long: `Show, for each partition, which offsets are on local disk and which in the object store
(from the first to before the second), how large that is, in how many objects, and what is
sealed but not uploaded yet (the lag). A partition's newest segment stays local until it is
sealed, so REMOTE ends a little before LOCAL.`,
		Example: `  firn tier status flights
  firn tier status flights --output json`,
		Args:              args(cobra.ExactArgs(1), "the name of one topic"),
		ValidArgsFunction: a.completeOneTopic,
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), adminTimeout)
			defer cancel()
			body, st, err := fetchTier(ctx, httpAddr, names[0])
			if err != nil {
				return err
			}
			if a.json() {
				var out bytes.Buffer
				if err := json.Indent(&out, bytes.TrimSpace(body), "", "  "); err != nil {
					return failf("", "the broker's answer cannot be read: %w", err)
				}
				out.WriteByte('\n')
				_, err := out.WriteTo(a.out)
				return err
			}
			return a.printTier(st)
		},
	}
	a.addHTTP(status.Flags(), &httpAddr)
	cmd := group("tier", "See what is in the object store", "See which part of a topic has moved to the object store.", status)
	cmd.Example = "  firn tier status flights"
	return cmd
}

func (a *app) printTier(st tierStatus) error {
	fmt.Fprintf(a.out, "topic %s, store %s\n\n", st.Topic, st.Store)
	t := newTable(">PARTITION", "STATE", ">LOCAL", ">BYTES", ">REMOTE", ">BYTES", ">OBJECTS", ">SEGMENTS", ">LAG", ">BYTES", ">WAITING")
	total := tierPartition{}
	for _, p := range st.Partitions {
		t.row(p.Partition, p.State, span(p.LocalStart, p.LogEnd), bytesText(p.LocalBytes), span(p.RemoteStart, p.RemoteEnd), bytesText(p.RemoteBytes),
			p.Objects, p.Segments, p.LagOffsets, bytesText(p.LagBytes), waiting(p.LagMs))
		total.LocalBytes += p.LocalBytes
		total.RemoteBytes += p.RemoteBytes
		total.Segments += p.Segments
		total.LagOffsets += p.LagOffsets
		total.LagBytes += p.LagBytes
		total.LagMs = max(total.LagMs, p.LagMs)
	}
	if len(st.Partitions) > 1 {
		// Objects are not added up: one may hold several partitions.
		t.row("all", "", "", bytesText(total.LocalBytes), "", bytesText(total.RemoteBytes), "", total.Segments, total.LagOffsets, bytesText(total.LagBytes), waiting(total.LagMs))
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	enabled := false
	for _, p := range st.Partitions {
		enabled = enabled || p.Enabled
		if p.LastError != "" {
			fmt.Fprintf(a.out, "\npartition %d, at %s: %s\n", p.Partition, timeText(p.LastErrorMs), p.LastError)
		}
	}
	if !enabled && len(st.Partitions) > 0 {
		fmt.Fprintf(a.out, "\ntiering is off for this topic; turn it on with: firn topic alter %s --config remote.storage.enable=true\n", st.Topic)
	}
	return nil
}

func span(from, to int64) string {
	if from < 0 || from >= to {
		return "-"
	}
	return fmt.Sprintf("%d..%d", from, to)
}

func waiting(ms int64) string {
	if ms <= 0 {
		return "-"
	}
	return durationText(time.Duration(ms) * time.Millisecond)
}
