// Package franz drives a broker through franz-go, an ordinary client: what an
// application sees, and what such a client costs. bench/blast shows more of
// the broker.
package franz

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/bench/blast"
)

// Client says what is sent and read: values, again and again, until bytes of
// them went through.
type Client struct {
	Topic  blast.Topic
	Values [][]byte
	Bytes  int64 // of values
}

// Produce sends with acks=all, uncompressed, in batches of up to 1 MiB.

func (c Client) Produce(ctx context.Context) (*blast.Result, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Topic.Addr), kgo.DefaultProduceTopic(c.Topic.Name), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(1<<20, false, false, nil)), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var failed atomic.Pointer[error]
	r := &blast.Result{}
	began := time.Now()
	for i := 0; r.Bytes < c.Bytes && failed.Load() == nil; i++ {
		v := c.Values[i%len(c.Values)]
		r.Bytes += int64(len(v))
		r.Requests++
		cl.Produce(ctx, &kgo.Record{Value: v}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return nil, err
	}
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	r.Took = time.Since(began)
	return r, nil
}

// Consume reads from the beginning until c.Bytes of values have come.
func (c Client) Consume(ctx context.Context) (*blast.Result, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Topic.Addr), kgo.ConsumeTopics(c.Topic.Name), kgo.FetchMaxPartitionBytes(4<<20), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	r := &blast.Result{}
	began := time.Now()
	for r.Bytes < c.Bytes {
		fs := cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			return nil, errors.Join(e.Err, ctx.Err())
		}
		fs.EachRecord(func(rec *kgo.Record) { r.Bytes += int64(len(rec.Value)) })
		r.Requests++
	}
	r.Took = time.Since(began)
	return r, nil
}
