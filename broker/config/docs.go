package config

import (
	"fmt"
	"strings"
)

// Markdown writes docs/configuration.md. A test keeps the page current.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

This page is generated from the table of settings in ` + "`broker/config/table.go`" + `; a test fails when it
is not current (` + "`go test ./broker/config -run Page -update`" + ` writes it).

` + "`firn start`" + ` needs no configuration. Whatever is set can be set in three places, and the first that
has it wins:

1. a flag: ` + "`--cache-bytes 50GiB`" + `
2. an environment variable: ` + "`FIRN_CACHE_BYTES=50GiB`" + `
3. a line of the YAML file that ` + "`--config FILE`" + ` (or ` + "`FIRN_CONFIG`" + `) names: ` + "`cache-bytes: 50GiB`" + `

Flag and YAML key are the same word; the variable is ` + "`FIRN_`" + ` and the word in capitals, with ` + "`_`" + ` for ` + "`-`" + `.
A variable that is set but empty counts as not set.

A name that does not exist is an error, in the file (with its line) as well as in the environment, and
the message names the nearest valid one. So is a value that cannot be used. The start stops before
anything is opened, with exit code 2, and lists everything that is wrong. Variables that Kubernetes and
Docker set for a service called firn (` + "`FIRN_SERVICE_HOST`, `FIRN_PORT`, `FIRN_PORT_9092_TCP`" + ` …) are let pass, and
so are ` + "`FIRN_BROKERS`" + `, which the client commands read, and ` + "`FIRN_CACHE`" + `, which the Makefile reads.

` + "`firn config check`" + ` says whether a configuration is right without starting anything; ` + "`firn config print`" + `
shows every value in effect and where it comes from. Neither prints passwords or keys.

## Settings

| flag and YAML key | variable | value | default | Kafka's name |
|---|---|---|---|---|
`)
	for i := range table {
		s := &table[i]
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", s.Name, s.Env(), strings.ReplaceAll(s.Kind, "|", " or "), code(s.Default), code(s.Kafka))
	}
	b.WriteString("\n")
	for i := range table {
		s := &table[i]
		fmt.Fprintf(&b, "**%s**: %s.\n\n", s.Name, s.Doc)
	}
	b.WriteString(`## Values

- SIZE: a number of bytes, or a number with ` + "`KB`, `MB`, `GB`, `TB`" + ` (powers of 1000) or ` + "`KiB`, `MiB`, `GiB`, `TiB`" + ` (of 1024).
- DURATION: a number with ` + "`ms`, `s`, `m` or `h`" + `, such as ` + "`500ms` or `1h30m`" + `.
- HOST:PORT: IPv6 addresses in brackets, ` + "`[::1]:9092`" + `.

`)
	writeBrokerConfigs(&b)
	b.WriteString(`## Credentials of the object store

They are found where each provider's users expect them (for S3: environment, profile, instance role; for
GCS: application default credentials), not in Firn's configuration.

## Example

` + "```yaml" + `
data: /var/lib/firn
kafka: 0.0.0.0:9092
advertise: broker-1.example.net:9092
store: s3://my-logs/firn?region=eu-central-1
cache-bytes: 50GiB
log-format: json
set:
  auto.create.topics.enable: false
  num.partitions: 6
  log.retention.hours: 72
` + "```" + `

What is set per topic (retention, segment sizes, tiering …) is a topic config: ` + "`firn topic alter NAME --config retention.ms=86400000`" + `.
`)
	return b.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
