package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// maxRecord bounds one record of the input in bytes; a broker takes less.
const maxRecord = 256 << 20

// recordReader cuts an input into records. It is for one goroutine.
type recordReader struct {
	in        *bufio.Reader
	name      string // of the input, for errors
	format    string
	separator []byte
	key       []byte // of records that have none; nil for none
	headers   []kgo.RecordHeader
	partition int32
	line      int64 // of the record that next gave last
	size      int64 // in bytes, likewise
	ended     bool
}

func newRecordReader(in io.Reader, name string, p produceFlags, keySet bool) (*recordReader, error) {
	if !slices.Contains([]string{"text", "json", "raw"}, p.format) {
		return nil, usageError("--format %s: choose text, json or raw", p.format)
	}
	if p.separator != "" && p.format != "text" {
		return nil, usageError("--key-separator goes with --format text only")
	}
	if p.partition < -1 {
		return nil, usageError("--partition %d: partitions count from 0", p.partition)
	}
	r := &recordReader{in: bufio.NewReaderSize(in, 256<<10), name: name, format: p.format, partition: p.partition}
	sep, err := unescape(p.separator)
	if err != nil {
		return nil, usageError("--key-separator: %w", err)
	}
	r.separator = []byte(sep)
	if keySet {
		r.key = []byte(p.key)
	}
	for _, h := range p.headers {
		k, v, ok := strings.Cut(h, "=")
		if !ok || k == "" {
			return nil, usageError("--header %q: write NAME=VALUE", h)
		}
		r.headers = append(r.headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	return r, nil
}

// input is what was read: a record and where it stood, or the error that
// ended the input.
type input struct {
	record *kgo.Record
	place  string
	size   int64 // bytes of the input
	err    error // io.EOF at its end
}

// readAll sends all records, and last an error, until ctx ends.
func (r *recordReader) readAll(ctx context.Context, to chan<- input) {
	for {
		rec, err := r.next()
		select {
		case to <- input{rec, r.place(), r.size, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// place says where the last record stood, for errors.
func (r *recordReader) place() string {
	if r.format == "raw" {
		return r.name
	}
	return fmt.Sprintf("line %d of %s", r.line, r.name)
}

// next gives the next record, io.EOF after the last.
func (r *recordReader) next() (*kgo.Record, error) {
	if r.format == "raw" {
		return r.nextRaw()
	}
	for {
		line, err := r.readLine()
		if err != nil {
			return nil, err
		}
		if r.format == "text" {
			return r.textRecord(line), nil
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		rec, err := r.jsonRecord(line)
		if err != nil {
			return nil, failf("nothing after that line was sent", "%s: %w", r.place(), err)
		}
		return rec, nil
	}
}

func (r *recordReader) nextRaw() (*kgo.Record, error) {
	if r.ended {
		return nil, io.EOF
	}
	r.ended = true
	data, err := io.ReadAll(io.LimitReader(r.in, maxRecord+1))
	if err != nil {
		return nil, failf("", "read %s: %w", r.name, err)
	}
	if len(data) > maxRecord {
		return nil, failf("", "%s is larger than %s, which is too large for one record", r.name, bytesText(maxRecord))
	}
	r.size = int64(len(data))
	return r.record(r.key, data), nil
}

// readLine gives a line without its end. The last one may lack a line end.
func (r *recordReader) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := r.in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxRecord {
			return nil, failf("", "line %d of %s is longer than %s, which is too large for one record", r.line+1, r.name, bytesText(maxRecord))
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = nil
		}
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, failf("", "read %s: %w", r.name, err)
		}
		r.line++
		r.size = int64(len(line))
		line = bytes.TrimSuffix(line, []byte("\n"))
		return bytes.TrimSuffix(line, []byte("\r")), nil
	}
}

func (r *recordReader) record(key, value []byte) *kgo.Record {
	return &kgo.Record{Key: key, Value: value, Headers: r.headers, Partition: r.partition}
}

func (r *recordReader) textRecord(line []byte) *kgo.Record {
	if len(r.separator) > 0 {
		if k, v, ok := bytes.Cut(line, r.separator); ok {
			return r.record(k, v)
		}
	}
	return r.record(r.key, line)
}

// jsonInput is one line of JSON input. Topic and offset are there because
// consume prints them; they are not used.
type jsonInput struct {
	Topic       string          `json:"topic"`
	Offset      *int64          `json:"offset"`
	Partition   *int32          `json:"partition"`
	Timestamp   json.RawMessage `json:"timestamp"`
	Key         json.RawMessage `json:"key"`
	Value       json.RawMessage `json:"value"`
	KeyBase64   *string         `json:"keyBase64"`
	ValueBase64 *string         `json:"valueBase64"`
	Headers     json.RawMessage `json:"headers"`
}

type jsonHeader struct {
	Key         string          `json:"key"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 *string         `json:"valueBase64"`
}

func (r *recordReader) jsonRecord(line []byte) (*kgo.Record, error) {
	var in jsonInput
	if err := strictJSON(line, &in); err != nil {
		return nil, err
	}
	key, err := jsonBytes("key", in.Key, in.KeyBase64)
	if err != nil {
		return nil, err
	}
	if len(in.Key) == 0 && in.KeyBase64 == nil {
		key = r.key
	}
	if len(in.Value) == 0 && in.ValueBase64 == nil {
		return nil, errors.New(`has no "value" (write "value": null for a tombstone)`)
	}
	value, err := jsonBytes("value", in.Value, in.ValueBase64)
	if err != nil {
		return nil, err
	}
	rec := r.record(key, value)
	if in.Partition != nil {
		if *in.Partition < 0 {
			return nil, fmt.Errorf(`"partition" is %d; partitions count from 0`, *in.Partition)
		}
		rec.Partition = *in.Partition
	}
	if rec.Timestamp, err = jsonTime(in.Timestamp); err != nil {
		return nil, err
	}
	headers, err := jsonHeaders(in.Headers)
	if err != nil {
		return nil, err
	}
	if len(headers) > 0 {
		rec.Headers = append(slices.Clone(r.headers), headers...)
	}
	return rec, nil
}

// strictJSON decodes one JSON value and refuses unknown fields and anything
// that follows.
func strictJSON(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			if te.Field == "" {
				return fmt.Errorf(`is %s and not an object such as {"value": "…"}`, te.Value)
			}
			return fmt.Errorf("%q cannot be %s", te.Field, te.Value)
		}
		msg := strings.TrimPrefix(err.Error(), "json: ")
		if strings.HasPrefix(msg, "unknown field") {
			return fmt.Errorf("%s; there are key, value, headers, partition, timestamp, keyBase64 and valueBase64", msg)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			msg = "it ends too early"
		}
		return fmt.Errorf("is not JSON: %s", msg)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object; write one object per line")
	}
	return nil
}

func jsonBytes(field string, v json.RawMessage, b64 *string) ([]byte, error) {
	if b64 != nil {
		if len(v) > 0 {
			return nil, fmt.Errorf("has both %q and %q", field, field+"Base64")
		}
		b, err := base64.StdEncoding.DecodeString(*b64)
		if err != nil {
			return nil, fmt.Errorf("%q is not base64: %w", field+"Base64", err)
		}
		return b, nil
	}
	if len(v) == 0 || string(v) == "null" {
		return nil, nil
	}
	if v[0] != '"' {
		var b bytes.Buffer
		if err := json.Compact(&b, v); err != nil {
			return nil, err
		}
		return b.Bytes(), nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return nil, err
	}
	return []byte(s), nil
}

func jsonTime(v json.RawMessage) (time.Time, error) {
	if len(v) == 0 || string(v) == "null" {
		return time.Time{}, nil // the client takes the present
	}
	var ms float64
	if json.Unmarshal(v, &ms) == nil {
		if ms != math.Trunc(ms) || ms < 0 || ms > 1<<53 {
			return time.Time{}, fmt.Errorf(`"timestamp" %s is not in whole milliseconds since 1970`, v)
		}
		return time.UnixMilli(int64(ms)), nil
	}
	var s string
	if json.Unmarshal(v, &s) == nil {
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf(`"timestamp" %s is neither milliseconds nor a time such as "2026-01-31T12:00:00Z"`, v)
}

func jsonHeaders(v json.RawMessage) ([]kgo.RecordHeader, error) {
	if len(v) == 0 || string(v) == "null" {
		return nil, nil
	}
	var out []kgo.RecordHeader
	add := func(h jsonHeader) error {
		b, err := jsonBytes("value", h.Value, h.ValueBase64)
		if err != nil {
			return fmt.Errorf("header %q: %w", h.Key, err)
		}
		out = append(out, kgo.RecordHeader{Key: h.Key, Value: b})
		return nil
	}
	if v[0] == '[' {
		var list []jsonHeader
		if err := strictJSON(v, &list); err != nil {
			return nil, fmt.Errorf(`"headers": %w`, err)
		}
		for _, h := range list {
			if err := add(h); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(v, &m); err != nil {
		return nil, errors.New(`"headers" is neither an object nor a list`)
	}
	for _, k := range sortedKeys(m) {
		if err := add(jsonHeader{Key: k, Value: m[k]}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// unescape reads \t, \n, \r, \0 and \\ in a flag's text.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", errors.New(`ends in a single \; write \\ for one`)
		}
		c, ok := map[byte]byte{'t': '\t', 'n': '\n', 'r': '\r', '0': 0, '\\': '\\'}[s[i]]
		if !ok {
			return "", fmt.Errorf(`\%c is not known; there are \t \n \r \0 \\`, s[i])
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}
