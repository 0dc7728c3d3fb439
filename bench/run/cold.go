package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/bench/slow"
	"github.com/firnlog/firn/objectstore/minio"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

// store is a MinIO of one trial, and what it is reached through.
type store struct {
	server *servers.Server
	proxy  *slow.Proxy // nil: nothing
}

func (s *store) stop() {
	if s == nil {
		return
	}
	if s.proxy != nil {
		s.proxy.Close()
	}
	s.server.Stop()
}

func (s *store) pid() int {
	if s == nil {
		return 0
	}
	return s.server.PID()
}

// addr is where clients reach it.
func (s *store) addr() string {
	if s.proxy != nil {
		return s.proxy.Addr()
	}
	return s.server.Host
}

// coldFolder is the folder of the bucket that is Firn's.
const coldFolder = "bench"

// tiered is a Firn whose object store is a MinIO.
type tiered struct {
	*firnServer
	store *store
}

func (s tiered) command(dir string) ([]string, error) {
	args, err := s.firnServer.command(dir)
	key := []string{"env", "MINIO_ROOT_USER=" + s.store.server.AccessKey, "MINIO_ROOT_PASSWORD=" + s.store.server.SecretKey}
	url := fmt.Sprintf("minio://%s/%s/%s?tls=false", s.store.addr(), s.store.server.Bucket, coldFolder)
	return append(append(key, args...), "--store", url, "--upload-check", "200ms", "--upload-wait", "1s", "--set", "log.retention.check.interval.ms=500"), err
}

// prepare starts the object store, and has the broker use it.
func (c *Cold) prepare(t *trial) error {
	server, err := servers.StartMinIO(filepath.Join(t.dir, "minio"))
	if err != nil {
		return err
	}
	t.store = &store{server: server}
	if c.Rate > 0 {
		if t.store.proxy, err = slow.Listen(server.Host, c.Delay, int64(c.Rate)); err != nil {
			return err
		}
	}
	t.server = tiered{t.server.(*firnServer), t.store}
	t.configs = maps.Clone(t.configs)
	maps.Copy(t.configs, map[string]string{
		"remote.storage.enable": "true",
		"retention.ms":          "-1",
		"local.retention.ms":    "1000",
		"segment.bytes":         "134217728",
		"file.delete.delay.ms":  "0",
	})
	return nil
}

func (c *Cold) run(t *trial) error {
	if err := t.load(c.Batch, c.Load); err != nil {
		return err
	}
	if err := t.awaitTiered(); err != nil {
		return err
	}
	st, err := minio.Open(t.ctx, minio.Config{Host: t.store.addr(), Bucket: t.store.server.Bucket, Prefix: coldFolder, AccessKey: t.store.server.AccessKey, SecretKey: t.store.server.SecretKey})
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // gives up idle connections
	ranges, err := rangesOf(t.ctx, st)
	if err != nil {
		return err
	}
	if err := t.phase("ranged GETs", 0, func() (*blast.Result, error) { return rangedGets(t.ctx, st, ranges, c.Streams) }); err != nil {
		return err
	}
	read := blast.Consume{Topic: t.topic, Consumers: 1, MaxBytes: int(c.MaxBytes), Bytes: math.MaxInt64, Once: true, Wait: 500 * time.Millisecond}
	for _, phase := range []string{"cache empty", "cache warm"} {
		if err := t.phase(phase, c.Load, func() (*blast.Result, error) {
			r, err := read.Run(t.ctx)
			if err == nil {
				r.Latency = blast.Histogram{} // of a fetch: its size decides it
			}
			return r, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// awaitTiered waits until all of the topic is in the object store and nothing
// of it on local disk.
func (t *trial) awaitTiered() error {
	ends, err := t.topic.Ends(t.ctx)
	if err != nil {
		return err
	}
	want := int64(0)
	for _, e := range ends {
		want += e
	}
	url := "http://" + t.server.(tiered).http + "/v1/tier/" + t.topic.Name
	for {
		var status struct {
			Partitions []struct {
				RemoteEnd  int64  `json:"remoteEnd"`
				LocalBytes int64  `json:"localBytes"`
				LastError  string `json:"lastError"`
			} `json:"partitions"`
		}
		if err := getJSON(t.ctx, url, &status); err != nil {
			return err
		}
		var tiered, local int64
		last := ""
		for _, p := range status.Partitions {
			tiered, local = tiered+p.RemoteEnd, local+p.LocalBytes
			if p.LastError != "" {
				last = p.LastError
			}
		}
		if tiered == want && local == 0 {
			return nil
		}
		select {
		case <-t.ctx.Done():
			return fmt.Errorf("%d of %d records are in the object store, %d bytes still on local disk: %w %s", tiered, want, local, t.ctx.Err(), last)
		case <-t.p.ended:
			return errors.New("the broker ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func getJSON(ctx context.Context, url string, into any) error {
	body, err := get(ctx, url)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(into)
}

// get gives what a broker answers with 200.
func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

// rangeSize is what one GET asks for, the size of Firn's chunks.
const rangeSize = 4 << 20

type objectRange struct {
	key    string
	off, n int64
}

// rangesOf cuts the objects that hold records, those of a chunk or more, into
// ranges.
func rangesOf(ctx context.Context, st *minio.Store) ([]objectRange, error) {
	var all []objectRange
	for o, err := range st.List(ctx, "", "") {
		if err != nil {
			return nil, err
		}
		if o.Size < rangeSize {
			continue
		}
		for off := int64(0); off < o.Size; off += rangeSize {
			all = append(all, objectRange{o.Key, off, min(rangeSize, o.Size-off)})
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the object store has no object of 4 MiB or more")
	}
	return all, nil
}

// rangedGets reads all ranges, so many at once, into memory.
func rangedGets(ctx context.Context, st *minio.Store, ranges []objectRange, streams int) (*blast.Result, error) {
	var next, bytes atomic.Int64
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range streams {
		g.Go(func() error {
			buf := make([]byte, rangeSize)
			for i := next.Add(1) - 1; i < int64(len(ranges)); i = next.Add(1) - 1 {
				r := ranges[i]
				body, err := st.GetRange(ctx, r.key, r.off, r.n)
				if err != nil {
					return err
				}
				n, err := io.ReadFull(body, buf[:r.n])
				body.Close()
				if err != nil {
					return fmt.Errorf("object %s, %d bytes at %d: %w", r.key, r.n, r.off, err)
				}
				bytes.Add(int64(n))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &blast.Result{Bytes: bytes.Load(), Requests: int64(len(ranges)), Took: time.Since(began)}, nil
}
