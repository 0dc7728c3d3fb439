package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// recordFormat appends one record in the form that the user asked for.
type recordFormat func(dst []byte, r *kgo.Record) []byte

// parseFormat understands --format: text, json, raw, or a template.
func parseFormat(s string) (recordFormat, error) {
	switch s {
	case "text":
		return parseTemplate(`%v\n`)
	case "raw":
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) }, nil
	case "json":
		return appendJSON, nil
	}
	if !strings.Contains(s, "%") {
		return nil, usageError(`--format %q: choose text, json, raw, or a template such as '%%k: %%v\n'`, s)
	}
	return parseTemplate(s)
}

var verbs = map[byte]recordFormat{
	'k': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Key...) },
	'v': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) },
	'o': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Offset, 10) },
	'p': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.Partition), 10) },
	't': func(dst []byte, r *kgo.Record) []byte {
		return r.Timestamp.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	},
	'm': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10) },
	'h': func(dst []byte, r *kgo.Record) []byte {
		for i, h := range r.Headers {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(append(append(dst, h.Key...), '='), h.Value...)
		}
		return dst
	},
	'%': func(dst []byte, _ *kgo.Record) []byte { return append(dst, '%') },
}

// parseTemplate reads a template: %k %v %o %p %t %m %h %%, and \n \t \r \0 \\.
func parseTemplate(s string) (recordFormat, error) {
	var parts []recordFormat
	literal := func(text string) error {
		if text == "" {
			return nil
		}
		out, err := unescape(text)
		if err != nil {
			return usageError("--format: %w", err)
		}
		parts = append(parts, func(dst []byte, _ *kgo.Record) []byte { return append(dst, out...) })
		return nil
	}
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			break
		}
		if err := literal(s[:i]); err != nil {
			return nil, err
		}
		if i+1 == len(s) {
			return nil, usageError("--format ends in a single %%; write %%%% for one")
		}
		verb, ok := verbs[s[i+1]]
		if !ok {
			return nil, usageError("--format: %%%c is not known; there are %%k key, %%v value, %%o offset, %%p partition, %%t time, %%m time in ms, %%h headers, %%%%", s[i+1])
		}
		parts = append(parts, verb)
		s = s[i+2:]
	}
	if err := literal(s); err != nil {
		return nil, err
	}
	return func(dst []byte, r *kgo.Record) []byte {
		for _, p := range parts {
			dst = p(dst, r)
		}
		return dst
	}, nil
}

// jsonRecord is a record as consume prints it and produce reads it. Of key
// and keyBase64 (and so on) exactly one is there.
type jsonOutput struct {
	Topic       string             `json:"topic"`
	Partition   int32              `json:"partition"`
	Offset      int64              `json:"offset"`
	Timestamp   int64              `json:"timestamp"`
	Key         json.RawMessage    `json:"key,omitempty"`
	KeyBase64   *string            `json:"keyBase64,omitempty"`
	Value       json.RawMessage    `json:"value,omitempty"`
	ValueBase64 *string            `json:"valueBase64,omitempty"`
	Headers     []jsonOutputHeader `json:"headers"`
}

type jsonOutputHeader struct {
	Key         string          `json:"key"`
	Value       json.RawMessage `json:"value,omitempty"`
	ValueBase64 *string         `json:"valueBase64,omitempty"`
}

func appendJSON(dst []byte, r *kgo.Record) []byte {
	out := jsonOutput{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Headers: []jsonOutputHeader{}}
	out.Key, out.KeyBase64 = textOrBase64(r.Key)
	out.Value, out.ValueBase64 = textOrBase64(r.Value)
	for _, h := range r.Headers {
		jh := jsonOutputHeader{Key: h.Key}
		jh.Value, jh.ValueBase64 = textOrBase64(h.Value)
		out.Headers = append(out.Headers, jh)
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		panic(fmt.Sprintf("a struct of text and numbers is not JSON: %v", err))
	}
	return append(dst, b.String()...)
}

// textOrBase64 gives bytes as a JSON string (null for nil), or as base64 when
// they are not UTF-8.
func textOrBase64(b []byte) (json.RawMessage, *string) {
	if b == nil {
		return json.RawMessage("null"), nil
	}
	if !utf8.Valid(b) {
		s := base64.StdEncoding.EncodeToString(b)
		return nil, &s
	}
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(string(b)); err != nil {
		panic(fmt.Sprintf("a string is not JSON: %v", err))
	}
	return json.RawMessage(strings.TrimSpace(out.String())), nil
}

// parseTime reads RFC 3339 or milliseconds since 1970, as milliseconds.
func parseTime(s string) (int64, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 {
		return ms, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UnixMilli(), nil
		}
	}
	return 0, fmt.Errorf("%q is neither a time such as 2026-01-31T12:00:00Z or 2026-01-31 nor milliseconds since 1970", s)
}
