package partition

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConcurrentUse has producers, readers, waiters, retention and an
// observer at work, and then closes the partition under them.
func TestConcurrentUse(t *testing.T) {
	cfg := testConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes, cfg.RetentionBytes = 5000, 300, 20000
	p := open(t, t.TempDir(), cfg, Deps{})
	var wg sync.WaitGroup
	var released, waited, done atomic.Int64
	const producers, each = 3, 400
	for id := range int64(producers) {
		wg.Go(func() {
			defer done.Add(1)
			for i := range int32(each) {
				res, err := p.Append(idempotent(t, id, 0, i*3, 3), Client)
				if err != nil {
					t.Error(err)
					return
				}
				waited.Add(1)
				p.AwaitHighWatermark(res.LastOffset+1, func(err error) {
					if err != nil {
						t.Error(err)
					}
					released.Add(1)
				})
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			wake := make(chan struct{}, 1)
			cancel := p.Subscribe(wake, false)
			defer cancel()
			next := record.Offset(0)
			for next < producers*each*3 {
				res, err := p.Read(context.Background(), ReadRequest{Offset: next, MaxBytes: 3000, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1})
				switch {
				case errors.Is(err, kerr.OffsetOutOfRange):
					next = p.LogStart()
					continue
				case err != nil:
					t.Error(err)
					return
				case len(res.Spans) == 0:
					<-wake
					continue
				}
				var recs []record.Record
				got, err := decodeSpans(res.Spans, next, &recs)
				if err != nil || len(recs) == 0 || recs[0].Offset != next || recs[len(recs)-1].Offset >= res.HighWatermark {
					t.Errorf("at %d: %d records, %v", next, len(recs), err)
					return
				}
				next = got
			}
		})
	}
	wg.Go(func() {
		for done.Load() < producers {
			if _, err := p.RunRetention(time.Now()); err != nil {
				t.Error(err)
			}
			st := p.State()
			if st.LogStart > st.HighWatermark || st.HighWatermark > st.LogEnd || st.LastStableOffset > st.HighWatermark {
				t.Errorf("state %+v", st)
			}
			_ = p.Producers()
			_ = p.Sealed(0)
			if err := p.Sync(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if released.Load() != waited.Load() || p.State().LogEnd != producers*each*3 {
		t.Fatalf("%d of %d released, end %d", released.Load(), waited.Load(), p.State().LogEnd)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(); err != nil {
		t.Fatal(err)
	}
}
